"""Flow: photos to dataset cache."""

from pathlib import Path

from prefect import flow

from flows.tasks import tasks


@flow(name="prepare")
def prepare(
    data: Path, image_size: int = 224, cache_dir: Path = Path("cache"), group: str = ""
) -> Path:
    """Build the dataset cache of a folder of photos, unless it is up to date; return its path."""
    return tasks.prepare(data, image_size, cache_dir, group)
