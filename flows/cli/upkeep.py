"""The verbs of keeping order: models, prune."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from service.cli.serve import Repository
from storage import shown
from terminal import print_json, print_table, say
from training.cli.options import CacheDir, Json, RunsDir


def models(
    repository: Repository = Path("models"),
    model: Annotated[str | None, typer.Option(help="One model alone.")] = None,
    as_json: Json = False,
) -> None:
    """List every version: where it came from, what it reached, and who decided.

    Run, dataset hash, git commit, accuracy on the held-out photos, and the reason of the gate or of
    a person. The version that serves has a star.

    Example: hansang models
    """
    from flows.local.lineage import versions
    from service.models.working_copy import working_copy

    with working_copy(repository) as folder:
        found = versions(folder, model)
    if as_json:
        print_json(found)
        return
    columns = ("run", "dataset", "commit", "top1", "released", "why")
    print_table(
        f"{len(found)} versions in {shown(repository)}",
        ["model", *columns],
        [
            [f"{row['model']} {row['version']}{' *' if row['serves'] else ''}",
             *(_short(name, row[name]) for name in columns)]
            for row in found
        ],
    )  # fmt: skip


def _short(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "top1":
        return f"{value:.2%}"
    return str(value)[:12] if name in ("dataset", "commit") else str(value)


def prune(
    runs_dir: RunsDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    repository: Repository = Path("models"),
    days: Annotated[
        float, typer.Option(min=0, help="How long a run may still be released, or looked into.")
    ] = 14,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove caches, exported files and checkpoints that nobody needs; say what, and why.

    A cache goes unless it is the newest of its folder and size, was made within a day, or is needed
    by a run that has not ended or may still be released. Of runs that the gate weighed more than
    --days ago, exported files go, and checkpoints unless a version came from them. Metrics and
    reports stay. Of what lies in a bucket, this machine's copies go: of runs and caches by the same
    rule, of photos when nothing has used them for --days.

    Example: hansang prune --dry-run
    """
    from flows.pruning import rule
    from training.buckets import mirror

    runs, caches = mirror.local_path(runs_dir), mirror.local_path(cache_dir)
    found = rule.removable(runs, caches, repository, days=days)
    if not dry_run:
        for each in found:
            rule.remove(each)
    rows = [(str(each.path), each.num_bytes, each.why) for each in found]
    if as_json:
        print_json([dict(zip(("path", "bytes", "why"), row, strict=True)) for row in rows])
        return
    freed = sum(each.num_bytes for each in found) / 2**20
    print_table(
        f"{freed:.0f} MiB {'could be' if dry_run else 'were'} freed",
        ["what", "MiB", "why"],
        [[path, f"{size / 2**20:.1f}", why] for path, size, why in rows],
    )
    say(f"{shutil.disk_usage(Path()).free / 2**30:.1f} GiB are free here")
