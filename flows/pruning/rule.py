"""The rule of `hansang prune`: what nobody needs any more.

A cache goes unless

- it is the newest of its folder and size, or was made within the last day;
- a run needs it that has not ended, or ended within `days` and was not weighed by the gate;
- a version was learnt from it that does not say itself which photos those were.

Of a run that the gate weighed more than `days` ago, go

- its exported files: what was released lies in the repository;
- its checkpoints, unless a version in the repository came from it.

A copy of a bucket's photos goes when nothing has looked at the bucket for `days`: whoever needs it
again fetches it again.

Everything else of a run stays: settings, metrics, figures, report. Studies, and runs that were
never weighed, stay as they are.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.models.repository import ModelRepository
from service.models.working_copy import working_copy
from training.buckets import photos
from training.buckets.mirror import locked
from training.errors import RunError

_DAY_S = 86400.0
_GONE = ".tmp-"


@dataclass(frozen=True, slots=True)
class Removable:
    """A file or a folder that nobody needs."""

    path: Path
    why: str
    num_bytes: int
    """What its removal frees; files that another cache shares count nothing."""
    used_as: Path | None = None
    """What whoever uses it holds locked (`training.buckets.mirror.locked`)."""


@dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    cache: Path
    ended_s: float | None
    """Unix time; None while it has not ended."""


@dataclass(frozen=True, slots=True)
class _Models:
    """What the repository knows of runs."""

    weighed: frozenset[Path]
    sources: frozenset[Path]
    """Runs that a version which is there came from."""
    untold: frozenset[str]
    """Dataset hashes of versions that do not say which photos they learnt from."""


def removable(runs: Path, caches: Path, repository: Path, *, days: float) -> list[Removable]:
    """Return what may be removed, caches first and this machine's copies of photos last.

    Args:
        runs: The folder of runs.
        caches: The folder of caches.
        repository: The model repository, also in a bucket.
        days: How long what was trained may still be released, or looked into.

    Raises:
        ServiceError: The repository cannot be read: nothing is removable then.
    """
    with working_copy(repository) as folder:
        known = _known(ModelRepository(folder))
    old_s = time.time() - days * _DAY_S
    found = list(_runs(runs))
    return [
        *_old_caches(caches, found, known, old_s),
        *_old_files(found, known, old_s),
        *_old_photos(old_s),
    ]


def remove(found: Removable) -> None:
    """Remove it at once: a kill leaves no half cache. What somebody has begun to use stays.

    Raises:
        OSError: It cannot be removed.
    """
    if found.path.is_file():
        found.path.unlink()
        return
    gone = found.path.with_name(f"{_GONE}{found.path.name.removeprefix(_GONE)}")
    if found.used_as is None:
        found.path.rename(gone)
    else:
        with suppress(RunError), locked(found.used_as):
            found.path.rename(gone)
    # A build that begins now removes what killed ones left, and this with it.
    shutil.rmtree(gone, ignore_errors=True)


def little_room(caches: Path) -> str:
    """Return a warning if the next cache may not fit on the disk; an empty string if it does."""
    there = [path.parent for path in caches.glob("*/manifest.json")]
    if not there:
        return ""
    needed = sum(file.stat().st_size for file in max(there, key=_age).glob("*.npy"))
    free = shutil.disk_usage(caches).free
    if free > 2 * needed:
        return ""
    return (
        f"{free / 2**30:.1f} GiB are free in {caches}, and a night may need"
        f" {needed / 2**30:.1f} GiB for a cache; hansang prune removes what nobody needs"
    )


def _old_caches(
    caches: Path, runs: list[_Run], known: _Models, old_s: float
) -> Iterator[Removable]:
    groups: dict[str, list[Path]] = {}
    for manifest in sorted(caches.glob("*/manifest.json"), key=lambda path: _age(path.parent)):
        groups.setdefault(manifest.parent.name.rsplit("-", 1)[0], []).append(manifest.parent)
    needed = {run.cache for run in runs if _may_be_weighed(run, known, old_s)}
    for group in groups.values():
        for path in group[:-1]:
            fresh = _age(path) > time.time() - _DAY_S
            untold = _json(path / "manifest.json").get("dataset_hash") in known.untold
            if not fresh and not untold and path.resolve() not in needed:
                why = f"{group[-1].name} is newer, and no run needs it"
                yield Removable(path, why, _size(path))


def _may_be_weighed(run: _Run, known: _Models, old_s: float) -> bool:
    if run.ended_s is None:
        return True
    return run.path not in known.weighed and run.ended_s > old_s


def _old_files(runs: list[_Run], known: _Models, old_s: float) -> Iterator[Removable]:
    for run in runs:
        if run.path not in known.weighed or run.ended_s is None or run.ended_s > old_s:
            continue
        for file in sorted(run.path.glob("export/*/model.onnx")):
            yield Removable(file, "what was released of it lies in the repository", _size(file))
        checkpoints = run.path / "checkpoints"
        if checkpoints.is_dir() and run.path not in known.sources:
            why = "weighed, and no version in the repository came from it"
            yield Removable(checkpoints, why, _size(checkpoints))


def _old_photos(old_s: float) -> Iterator[Removable]:
    for path in sorted(photos.home().glob(f"{_GONE}*")):
        yield Removable(path, "left by a prune that was killed", _size(path))
    for copy, used_s in photos.last_used():
        if used_s < old_s:
            why = "a copy of a bucket's photos that nothing has used for so long"
            yield Removable(copy.parent, why, _size(copy.parent), used_as=copy)


def _runs(runs: Path) -> Iterator[_Run]:
    """Yield every run, also those of studies."""
    for config in sorted(runs.rglob("config.json")):
        path = config.parent
        about, result = _json(config), path / "result.json"
        if "cache" in about:
            ended_s = result.stat().st_mtime if result.is_file() else None
            yield _Run(path.resolve(), Path(about["cache"]).resolve(), ended_s)


def _known(store: ModelRepository) -> _Models:
    weighed, sources, untold = set(), set(), set()
    for model in store.models():
        there = store.versions(model)
        for line in store.history(model):
            if "run" in line:
                weighed.add(Path(line["run"]).resolve())
                if line["event"] == "released" and line["version"] in there:
                    sources.add(Path(line["run"]).resolve())
        for version in there:
            folder = store.path(model, version).parent
            if not (folder / "photos.json").is_file():
                untold.add(_json(folder / "release.json").get("dataset_hash", ""))
    return _Models(frozenset(weighed), frozenset(sources), frozenset(untold))


def _age(cache: Path) -> float:
    """Return when a cache was last found up to date, in Unix seconds."""
    return (cache / "manifest.json").stat().st_mtime


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(stat.st_size for file in files if (stat := file.stat()).st_nlink == 1)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
