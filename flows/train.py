"""Flow: a folder of photos to a run directory with a best epoch."""

import json
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import tasks


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
    publish_artifacts(runs_dir / run_id)
    return result


def publish_artifacts(run_dir: Path) -> None:
    """Show the run in Prefect: a link to its folder, and its epochs as a table."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    create_link_artifact(
        run_dir.resolve().as_uri(), link_text=run_dir.name, description="The run directory"
    )
    create_table_artifact(rows, description=f"Epochs of {run_dir.name}")
