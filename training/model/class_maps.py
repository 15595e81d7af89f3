"""Where in a photo a ResNet sees a class: the class map that its global pooling gives for nothing.

pixels ─► layer4 (D, h, w) ─► · weights of the class (D) ─► map (h, w), whose mean is the logit

Zhou et al. 2016, arXiv 1512.04150. A cell stands for 32 pixels, so a small photo has few; they are
read at shifts of half a cell then, and interleaved (Long et al. 2015, arXiv 1411.4038).

Shapes: N photos, C side of the cached square, S side of the model's square, D features, M cells.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service.pixels.preprocessing import centre_crop
from training.model.resnet import Normalise, build
from training.runs import checkpoint

_BATCH = 64
_STRIDE = 32
"""Pixels between two cells of layer4."""
_FEW = 4
"""Cells a side below which shifts double them."""


def best_model(run_dir: Path) -> nn.Module:
    """Return the released weights of a run's best epoch, in eval mode on the CPU.

    Raises:
        DamagedError: The checkpoint is gone or damaged.
    """
    tensors, _ = checkpoint.load(run_dir / "checkpoints" / checkpoint.BEST)
    weights = checkpoint.model_tensors(tensors)
    model = build(len(weights["fc.bias"]), seed=0)
    model.load_state_dict(weights)
    return model.eval()


def class_maps(
    model: nn.Module,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    image_size: int,
) -> NDArray[np.float32]:
    """Return how much each part of a photo speaks for a class, (N, M, M), 0 to 1, the most 1.

    Args:
        model: A ResNet18.
        images: (…, C, C, 3), of which a batch at a time is read.
        rows: (N,), of the photos.
        weights: (N, D), of the class that is asked about, from features to its logit.
        image_size: S.
    """
    shifts = 2 if image_size // _STRIDE < _FEW else 1
    found = []
    for start, pixels in _batches(images, rows, image_size):
        wanted = torch.from_numpy(weights[start : start + len(pixels)]).float()
        parts = [
            torch.einsum("ndhw,nd->nhw", _seen(model, shifted), wanted)
            for shifted in _shifted(pixels, shifts)
        ]
        count, height, width = parts[0].shape
        maps = torch.stack(parts, -1).reshape(count, height, width, shifts, shifts)
        maps = maps.permute(0, 1, 3, 2, 4).reshape(count, height * shifts, width * shifts)
        # What speaks against the class is left dark.
        maps = maps.clamp(min=0)
        found.append((maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-9)).numpy())
    return np.concatenate(found)


def pooled(
    model: nn.Module, images: NDArray[np.uint8], rows: NDArray[np.int64], image_size: int
) -> NDArray[np.float32]:
    """Return what a model sees in photos before its head, (N, D)."""
    batches = _batches(images, rows, image_size)
    return np.concatenate([_seen(model, pixels).mean((2, 3)).numpy() for _, pixels in batches])


def _batches(
    images: NDArray[np.uint8], rows: NDArray[np.int64], image_size: int
) -> Iterator[tuple[int, Tensor]]:
    normalise = Normalise()
    for start in range(0, len(rows), _BATCH):
        squares = centre_crop(images[rows[start : start + _BATCH]], image_size)
        yield start, normalise(torch.from_numpy(squares.copy()).permute(0, 3, 1, 2).float())


def _shifted(pixels: Tensor, shifts: int) -> Iterator[Tensor]:
    """Yield the photos moved by parts of a cell, row by row, with a mirrored edge."""
    side = pixels.shape[-1]
    margin = _STRIDE // 2
    padded = functional.pad(pixels, (margin,) * 4, mode="reflect")
    starts = [_STRIDE * (2 * at + 1) // (2 * shifts) for at in range(shifts)]
    for top in starts:
        for left in starts:
            yield padded[:, :, top : top + side, left : left + side]


@torch.no_grad()
def _seen(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the output of layer4, (N, D, h, w)."""
    inputs = pixels.contiguous(memory_format=torch.channels_last)
    for name, part in model.named_children():
        if name == "avgpool":
            break
        inputs = part(inputs)
    return inputs
