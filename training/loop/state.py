"""All that a run resumes from, as tensors by name, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.loop.learner import Learner
from training.runs.checkpoint import part

_SCALER = ("scale", "_growth_tracker")
"""What changes in a GradScaler; the rest are constants."""


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """Return the tensors of the model, its average, the optimizer and the loss scale.

    They are not copies.
    """
    tensors = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    if learner.average is not None:
        average = learner.average.state_dict()
        tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, values in learner.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    if learner.scaler.is_enabled():
        scaler = learner.scaler.state_dict()
        tensors |= {f"scaler.{name}": torch.tensor(scaler[name]) for name in _SCALER}
    return tensors


def restore(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Load what `tensors_of` returned, onto the learner's device and in its memory layout."""
    learner.model.load_state_dict(part(tensors, "model."))
    if learner.average is not None:
        learner.average.load_state_dict(part(tensors, "average."))
    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if scaler := part(tensors, "scaler."):
        found = {name: tensor.item() for name, tensor in scaler.items()}
        learner.scaler.load_state_dict({**learner.scaler.state_dict(), **found})
