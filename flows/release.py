"""Flow: the best epoch of a run to the version that serves."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import tasks
from flows.steps import Release


@flow(name="release")
def release(
    run_dir: Path, model: str = "food42", repository: Path = Path("models"), keep: int = 5
) -> Release:
    """Export the best epoch to ONNX, check parity, publish it and make it serve."""
    released = tasks.release(run_dir, model, repository, keep)
    create_link_artifact(
        released.path.resolve().as_uri(),
        link_text=f"{released.model} version {released.version}",
        description="The released model",
    )
    create_table_artifact(
        [
            {
                "model": released.model,
                "version": released.version,
                "epoch": released.epoch,
                "val_top1": released.val_top1,
                "photos_checked": released.photos_checked,
                "max_difference": released.max_difference,
            }
        ],
        description="What was released, and what the parity gate measured",
    )
    return released
