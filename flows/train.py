"""Flow: a folder of photos to a run directory with a best epoch."""

from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.logging import get_run_logger

from flows import tasks
from flows.artifacts import publish_run


@flow(name="train")
def train(
    data: Path,
    recipe: str = "scratch",
    epochs: int | None = None,
    image_size: int = 224,
    run_id: str | None = None,
    overrides: dict[str, str] | None = None,
    runs_dir: Path = Path("runs"),
    cache_dir: Path = Path("cache"),
) -> dict[str, Any]:
    """Train ResNet18; killed or cancelled at any moment, the same run id resumes it exactly."""
    # The flow run's id survives its retries, so a retried run finds its own checkpoint.
    run_id = run_id or str(runtime.flow_run.id)
    arguments = [
        str(data), "--recipe", recipe, "--run", run_id,
        "--image-size", str(image_size), "--runs-dir", str(runs_dir), "--cache-dir", str(cache_dir),
    ]  # fmt: skip
    if epochs is not None:
        arguments += ["--epochs", str(epochs)]
    for key, value in (overrides or {}).items():
        arguments += ["--set", f"{key}={value}"]
    result = tasks.train(arguments)
    _publish(runs_dir / run_id)
    return result


def _publish(run_dir: Path) -> None:
    """Show the run in Prefect; a run that is trained never fails for what shows it."""
    try:
        publish_run(run_dir)
    except Exception as error:
        get_run_logger().warning("the run's artifacts were not published: %s", error)
