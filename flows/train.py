"""Flow: a folder of photos to a run directory with a best epoch."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from flows.tasks import tasks
from flows.tasks.artifacts import or_warn, publish_run
from flows.tasks.names import run_name
from flows.tasks.parameters import Places, Training
from training.buckets import mirror


@flow(name="train")
def train(
    data: Path,
    training: Training = Training(),  # noqa: B008  # frozen
    run_id: str | None = None,
    places: Places = Places(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Train ResNet18. Killed or cancelled at any moment, the same run id resumes it exactly."""
    # The name survives the flow run's retries, so a retried run finds its own checkpoint.
    name = run_id or run_name(data, training.recipe, places.runs_dir)
    return trained(data, training, name, places)


def trained(data: Path, training: Training, run_id: str, places: Places) -> dict[str, Any]:
    """Train within a flow, and show the run in Prefect."""
    result = tasks.train(
        [str(data), "--run", run_id, *training.arguments(),
         "--runs-dir", str(places.runs_dir), "--cache-dir", str(places.cache_dir)]
    )  # fmt: skip
    publish(mirror.local_path(places.runs_dir / run_id))
    return result


def publish(run_dir: Path) -> None:
    """Publish a run's artifacts in Prefect; a failure is logged and costs nothing else."""
    or_warn("the run", partial(publish_run, run_dir))
