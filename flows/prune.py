"""Flow: remove caches, exported files and checkpoints that nobody needs."""

from prefect import flow
from prefect.logging import get_run_logger

from flows.pruning import rule
from flows.tasks.parameters import Places
from training.buckets import mirror


@flow(name="prune")
def prune(
    places: Places = Places(),  # noqa: B008  # frozen
    days: float = 14,
    dry_run: bool = False,
) -> int:
    """Remove what `flows/pruning/rule.py` says nobody needs; return how many bytes that freed.

    Args:
        places: Folders of runs, caches and models. Of what lies in a bucket, this machine's copies.
        days: How long what was trained may still be released, or looked into.
        dry_run: Only say what would be removed.
    """
    runs, caches = mirror.local_path(places.runs_dir), mirror.local_path(places.cache_dir)
    freed = 0
    for found in rule.removable(runs, caches, places.repository, days=days):
        if not dry_run:
            rule.remove(found)
        freed += found.num_bytes
        get_run_logger().info("%s (%.0f MiB): %s", found.path, found.num_bytes / 2**20, found.why)
    return freed
