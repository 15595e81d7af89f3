"""ResNet18 (He et al. 2015) under torchvision's parameter names, and the model as it is served.

Shapes: N batch, S side of the square, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from training.data.cache import MEAN, STD


def build(num_classes: int, *, seed: int) -> nn.Module:
    """Return a ResNet18 with random weights that are a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    return model


class Normalise(nn.Module):
    """Pixels (N, 3, S, S) from 0 to 255 → the model's input, as ImageNet's weights expect it."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale to 0 … 1, subtract ImageNet's mean and divide by its deviation."""
        scaled: Tensor = (pixels / 255 - self.mean) / self.std
        return scaled


def flip_averaged(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a model whose logits are the mean over a photo and its mirror image."""
    return lambda inputs: (model(inputs) + model(inputs.flip(-1))) / 2


class Served(nn.Module):
    """uint8 (N, S, S, 3) → probabilities (N, K), as exported: a server computes nothing beside."""

    def __init__(
        self, model: nn.Module, *, flip_average: bool = False, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise()
        self.flip_average = flip_average
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Cast, normalise, run the model, divide by the temperature, softmax."""
        # Contiguous: with channels innermost, the pooling would be exported as a dozen operations
        # on strides, which a CUDA graph cannot hold.
        pixels = images.permute(0, 3, 1, 2).float().contiguous()
        inputs = self.normalise(pixels)
        network = flip_averaged(self.model) if self.flip_average else self.model
        logits: Tensor = network(inputs)
        return (logits / self.temperature).softmax(1)
