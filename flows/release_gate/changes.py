"""What changed in the photos since the last training: how much, and whether they are clean.

What a model learnt from lies beside it as `photos.json`, and beside a candidate that was kept out:
caches may be removed. In it are the splits of the cache's manifest, without names.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terminal import UserError

if TYPE_CHECKING:
    from service.models.repository import ModelRepository

PHOTOS = "photos.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How a folder of photos differs from what was last trained on."""

    photos: int
    added: int
    """Photos that were not there, or stood in another split or under another label."""
    removed: int
    known: bool
    """Whether it is known what was last trained on; if not, all of it counts as new."""

    @property
    def share(self) -> float:
        """Photos added or removed, as a share of what is there now."""
        return (self.added + self.removed) / self.photos if self.known else 1.0

    def describe(self, wanted: float) -> str:
        """Return the change as a sentence, beside the share that a training needs."""
        return (
            f"{self.added} photos are new or relabelled and {self.removed} are gone since the last"
            f" run: {self.share:.2%} of {self.photos}, and {wanted:.2%} are worth a training"
        )


def require_clean(sheet: Mapping[str, Any]) -> None:
    """Refuse photos in which the data sheet found problems.

    Raises:
        UserError: They leak between splits, stand under two labels, or cannot be read.
    """
    if not sheet["problems"]:
        return
    examples = [
        *(f"{path}: {why}" for path, why in sheet["bad_files"].items()),
        *(
            " = ".join(group["files"])
            for group in (*sheet["duplicates_across_splits"], *sheet["two_labels"])
        ),
    ]
    raise UserError(
        f"{sheet['folder']} is not trained on: {'; '.join(sheet['problems'])}. For example"
        f" {'; '.join(examples[:3]) or 'see the data sheet'}. Mend it (hansang inspect lists all),"
        " or allow it with nightly.strict = false"
    )


def since_last_run(
    now: Collection[tuple[str, str, str]], model: str, repository: Path, caches: Path
) -> Change:
    """Compare photos with those of the last run that was evaluated, released or not.

    Args:
        now: (split, label, content hash) of each photo.
        model: Name of the model.
        repository: The model repository.
        caches: Where the last run's cache may lie, if it left no list of its photos.
    """
    from service.models.repository import ModelRepository
    from service.models.working_copy import working_copy

    there = set(now)
    with working_copy(repository) as folder:
        store = ModelRepository(folder)
        line = next((e for e in reversed(store.history(model)) if "dataset_hash" in e), None)
        before = _before(line, store, model, caches) if line else None
    if before is None:
        return Change(photos=len(there), added=len(there), removed=0, known=False)
    return Change(
        photos=len(there), added=len(there - before), removed=len(before - there), known=True
    )


def photos_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model keeps of the photos that it learnt from: the content of `photos.json`."""
    return {
        "dataset_hash": manifest["dataset_hash"],
        "labels": manifest["labels"],
        "splits": {
            split: {"targets": listed["targets"], "hashes": listed.get("hashes", ())}
            for split, listed in manifest["splits"].items()
        },
    }


def learnt(photos: Path, dataset_hash: str, caches: Path) -> dict[str, Any] | None:
    """Return what `photos_of` gave: from a photos.json, or of a cache with this hash.

    None if neither is there.
    """
    for path in (photos, *sorted(caches.glob("*/manifest.json"))):
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if found["dataset_hash"] == dataset_hash:
                return photos_of(found)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _before(
    line: Mapping[str, Any], store: "ModelRepository", model: str, caches: Path
) -> set[tuple[str, str, str]] | None:
    """Return the photos of a run by its line in the history; None if they are not known."""
    if line["event"] == "released":
        photos = store.path(model, line["version"]).with_name(PHOTOS)
    else:
        photos = Path(line.get("run", "")) / "export" / line.get("weighing", "") / PHOTOS
    found = learnt(photos, line["dataset_hash"], caches)
    if found is None or not all(listed["hashes"] for listed in found["splits"].values()):
        return None
    return contents_of(found)


def contents_of(photos: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Return (split, label, content hash) of every photo in what `photos_of` gave."""
    labels = photos["labels"]
    return {
        (split, labels[target], content)
        for split, listed in photos["splits"].items()
        for target, content in zip(listed["targets"], listed["hashes"], strict=False)
    }
