"""The parity gate: the exported file must answer as the trained model does, photo by photo.

Shapes: N photos, S side of the square, K classes.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.pixels.preprocessing import centre_crop
from terminal import Progress, no_progress
from training.data.cache import Split
from training.errors import ExportError

BATCHES = (7, 1)
"""The gate's batch sizes: exporters have silently fixed the batch, so 1 and an odd one."""

MAX_DIFFERENCE = 1e-4
"""Of a probability; the difference must be below."""
TIE = 1e-5
"""Two probabilities nearer than this are a tie, and either class may be the first."""
TIE_ACROSS_DEVICES = MAX_DIFFERENCE
"""The same for a run that was validated on CUDA, whose sums have another order than a CPU's."""
_TORCH_BATCH = 64
"""On shared cores, torch's threads wait long for each other in small batches."""


def check_parity(
    served: nn.Module, path: Path, split: Split, progress: Progress = no_progress
) -> tuple[int, float]:
    """Compare onnxruntime with torch, photo by photo, at each of the gate's batch sizes.

    Returns how many photos onnxruntime gets right, and the largest difference of a probability.

    Raises:
        ExportError: A photo gets another class (other than by a tie), or a probability differs by
            1e-4 or more; the message names the photo.
    """
    session = _session(path)
    size = session.get_inputs()[0].shape[1]
    num_photos = len(split.targets)
    expected = torch_answers(served, split, size)
    num_correct, worst = 0, 0.0
    for index, batch in enumerate(BATCHES):
        num_correct = 0
        for start in range(0, num_photos, batch):
            images = np.ascontiguousarray(centre_crop(split.images[start : start + batch], size))
            try:
                (answered,) = session.run(["probabilities"], {"images": images})
            except Exception as error:
                raise ExportError(
                    f"the exported model fails on a batch of {len(images)}: {error}"
                ) from error
            rows = slice(start, start + batch)
            worst = max(worst, _compare(expected[rows], answered, split.files[rows]))
            num_correct += int((answered.argmax(1) == split.targets[rows]).sum())
            progress(index * num_photos + start + len(images), len(BATCHES) * num_photos)
    return num_correct, worst


def torch_answers(served: nn.Module, split: Split, size: int) -> NDArray[np.float32]:
    """Return the served model's probabilities in torch, (N, K)."""
    starts = range(0, len(split.targets), _TORCH_BATCH)
    rows = [slice(start, start + _TORCH_BATCH) for start in starts]
    with torch.no_grad():
        answers = [
            served(torch.from_numpy(np.ascontiguousarray(centre_crop(split.images[r], size))))
            for r in rows
        ]
    probabilities: NDArray[np.float32] = torch.cat(answers).numpy()
    return probabilities


def num_ties(probabilities: NDArray[np.float32], device: str) -> int:
    """Return for how many photos the two likeliest classes are a tie.

    Args:
        probabilities: A CPU's, (N, K).
        device: Where the other answers come from, such as `cpu (AVX2)` or `cuda (NVIDIA H100)`.
    """
    tie = TIE if device.startswith("cpu") else TIE_ACROSS_DEVICES
    first_two = np.sort(probabilities, axis=1)[:, -2:]
    return int((first_two[:, 1] - first_two[:, 0] <= tie).sum())


def _session(path: Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime cannot open the exported model: {error}") from error


def _compare(
    expected: NDArray[np.float32], answered: NDArray[np.float32], files: tuple[str, ...]
) -> float:
    """Return the largest difference of a probability; raise an ExportError if it is too large."""
    if expected.shape != answered.shape:
        raise ExportError(f"the exported model answers {answered.shape}, torch {expected.shape}")
    difference = np.abs(expected - answered).max(1)
    chosen = answered.argmax(1)
    rows = np.arange(len(expected))
    behind = expected.max(1) - expected[rows, chosen]
    # Written so that NaN fails.
    good = (difference < MAX_DIFFERENCE) & (behind <= TIE)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ExportError(
            f"the exported model is not the trained one: on {files[row]} torch says class"
            f" {expected[row].argmax()} ({expected[row].max():.6f}), onnxruntime class"
            f" {chosen[row]} ({answered[row, chosen[row]]:.6f}); nothing was published"
        )
    return float(difference.max())
