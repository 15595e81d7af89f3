"""The steps that need both rooms, as plain functions: a verb runs them, and so does a flow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from terminal import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version that serves from now on, and what was checked before it did."""

    model: str
    version: int
    path: Path
    """The released `model.onnx`."""
    run_dir: Path
    epoch: int
    val_top1: float
    """Validation top-1 of the released file itself, as a fraction, counted by onnxruntime."""
    photos_checked: int
    max_difference: float
    """Largest difference of a probability between torch and onnxruntime."""


def release(
    run_dir: Path,
    *,
    model: str = "food42",
    repository: Path = Path("models"),
    keep: int = 5,
    progress: Progress = no_progress,
) -> Release:
    """Export the best epoch of a run, pass the parity gate, publish it and make it serve.

    Raises:
        TrainingError: The run has no best epoch, or the gate refused the exported file.
        ServiceError: The model repository refused it.
    """
    from service.model_store import ModelStore
    from training.export import export

    store = ModelStore(repository)
    with tempfile.TemporaryDirectory(prefix="hansang-release-") as folder:
        exported = export(run_dir, Path(folder) / "model.onnx", progress=progress)
        version = store.publish(model, exported.path, keep=keep)
    return Release(
        model=model,
        version=version,
        path=store.path(model, version),
        run_dir=run_dir,
        epoch=exported.epoch,
        val_top1=exported.val_top1,
        photos_checked=exported.photos_checked,
        max_difference=exported.max_difference,
    )
