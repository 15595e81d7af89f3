"""The photos that two models are compared on: those that neither of them was trained on."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.release_gate.changes import PHOTOS, learnt
from machine import num_cores
from service.models.model import Model
from terminal import UserError

if TYPE_CHECKING:
    from training.data.cache import DatasetCache

_MISSING_SHARE = 0.1
"""Share of the photos that may have changed before the comparison is refused."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Photos that the challenger did not learn from."""

    split: str
    """`test` if there is one; `val`, on which the best epoch was chosen, if not."""
    files: tuple[Path, ...]
    truth: tuple[str, ...]
    """The label of each, in NFC."""
    groups: tuple[str, ...]
    """What each shares with others, such as an object; "" for one that stands alone."""
    dataset_hash: str
    left_out: dict[str, int]
    """Why photos of the split are not among them → how many."""


def held_out(run_dir: Path, champion: Model | None) -> HeldOut:
    """Return the photos that a run's model and the serving one are compared on.

    Those that have changed or gone since the run was prepared are left out, and so are those that
    the champion was trained on: a folder that is split anew as it grows moves photos over.

    Raises:
        UserError: There is no run, its cache is gone or from an older version, or too many photos
            of the split have changed.
    """
    from training.data.cache import DatasetCache
    from training.runs import run_directory

    about = run_directory.read(run_dir)
    if about is None:
        raise UserError(f"{run_dir} is no run directory; train one first: hansang train")
    cache = DatasetCache.open(Path(about["cache"]))
    name = "test" if "test" in cache.splits else "val"
    split = cache.splits[name]
    if cache.root is None or len(split.hashes) != len(split.files):
        raise UserError(
            f"{cache.path} does not say where its photos lie; run hansang prepare on them once more"
        )
    known = _learnt_by(champion, cache.path.parent)
    root, left_out = cache.root, Counter[str]()
    files, truth, groups = [], [], []
    group_of = _groups(run_dir, name, cache)
    with ThreadPoolExecutor(num_cores(), "hash") as pool:
        contents = pool.map(_hash, [root / name for name in split.files])
        for name_of, target, wanted, content in zip(
            split.files, split.targets, split.hashes, contents, strict=True
        ):
            if content != wanted:
                left_out["gone" if content is None else "changed"] += 1
            elif content in known:
                left_out["the serving model was trained on it"] += 1
            else:
                files.append(root / name_of)
                truth.append(cache.labels[target])
                groups.append(group_of.get(name_of, ""))
    lost = left_out["gone"] + left_out["changed"]
    if lost > _MISSING_SHARE * len(split.files):
        raise UserError(
            f"{lost} of the {len(split.files)} {name} photos in {root} have changed since"
            f" {run_dir} was prepared; train again on what is there now"
        )
    if not files:
        raise UserError(f"no {name} photo of {root} is left to compare on: {dict(left_out)}")
    return HeldOut(
        name, tuple(files), tuple(truth), tuple(groups), cache.dataset_hash, dict(+left_out)
    )


def _groups(run_dir: Path, name: str, cache: "DatasetCache") -> dict[str, str]:
    """Return the group of each photo of a split by its name: as the run has it, or the cache."""
    from training.evaluation.metrics import Predictions

    found = Predictions.load(run_dir, name, len(cache.labels))
    if found is not None and found.groups:
        return dict(zip(found.files, found.groups, strict=True))
    split = cache.splits[name]
    return dict(zip(split.files, split.groups, strict=False))


def _learnt_by(champion: Model | None, caches: Path) -> frozenset[str]:
    """Return the hashes of what the serving model was trained on, if that is known."""
    if champion is None:
        return frozenset()
    photos = champion.path.with_name(PHOTOS)
    found = learnt(photos, champion.metadata.dataset_hash, caches)
    return frozenset(found["splits"]["train"]["hashes"] if found else ())


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
