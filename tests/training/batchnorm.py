"""BatchNorm that does not look at the batch: what is left then is the sum of gradients."""

import torch

from training.loop.learner import Learner


def fix_statistics(learner: Learner) -> None:
    """Let every BatchNorm of a learner use its running statistics, even in training."""
    for module in learner.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # noqa: ARG005
            module.training = False
