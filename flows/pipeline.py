"""Flow: the whole road, from a folder of photos to a serving version."""

from pathlib import Path

from prefect import flow, runtime

from flows import tasks
from flows.artifacts import publish_sheet
from flows.release import release
from flows.steps import Release
from flows.train import train


@flow(name="pipeline")
def pipeline(
    data: Path,
    run_id: str | None = None,
    recipe: str = "scratch",
    epochs: int | None = None,
    image_size: int = 224,
    overrides: dict[str, str] | None = None,
    model: str = "food42",
    runs_dir: Path = Path("runs"),
    cache_dir: Path = Path("cache"),
    repository: Path = Path("models"),
) -> Release:
    """Inspect, prepare, train, release; run again with the same run id, it goes on where it was."""
    run_id = run_id or str(runtime.flow_run.id)
    sheet = runs_dir / run_id / "sheet"
    publish_sheet(tasks.inspect(data, sheet), sheet / "index.html")
    # Training prepares the cache itself; here it is a step of its own, with its own log and time.
    tasks.prepare(data, image_size, cache_dir)
    train(
        data,
        recipe=recipe,
        epochs=epochs,
        image_size=image_size,
        run_id=run_id,
        overrides=overrides,
        runs_dir=runs_dir,
        cache_dir=cache_dir,
    )
    return release(runs_dir / run_id, model=model, repository=repository)
