"""A ResNet18 of an eighth of the width, for tests of what becomes of a run, not of what it learns.

Its layers, their names and the files are those of the whole. A small run and its checkpoints cost a
fifth of the CPU time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

_WIDTH = 8


class _Thin(ResNet):
    """The same layers; 8 to 64 channels instead of 64 to 512."""

    def __init__(self, *, weights: None, num_classes: int) -> None:
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = _WIDTH, 1, 1, 64
        self.conv1 = nn.Conv2d(3, _WIDTH, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(BasicBlock, _WIDTH, 2)
        self.layer2 = self._make_layer(BasicBlock, 2 * _WIDTH, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * _WIDTH, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * _WIDTH, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * _WIDTH, num_classes)


@contextmanager
def thin_network() -> Iterator[None]:
    """Let whatever trains in this process train the thin network."""
    with patch("training.model.resnet.resnet18", _Thin):
        yield
