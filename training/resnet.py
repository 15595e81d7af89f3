"""ResNet18 (He et al. 2015) under torchvision's parameter names, and the model as it is served.

Shapes: N batch, S side of the square, K classes.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, of pixels from 0 to 1: what published weights expect."""


def build(num_classes: int, *, seed: int) -> nn.Module:
    """Return a ResNet18 with random weights that are a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    return model


def normalise(pixels: Tensor) -> Tensor:
    """Map pixels (N, 3, S, S) from 0..255 to what the model was made for."""
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(STD, device=pixels.device)[:, None, None]
    return (pixels / 255 - mean) / std


class Served(nn.Module):
    """uint8 (N, S, S, 3) → probabilities (N, K): everything that a server must not do itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Cast, normalise, run the model, softmax."""
        logits: Tensor = self.model(normalise(images.permute(0, 3, 1, 2).float()))
        return logits.softmax(1)
