"""What changed in the photos since the last training: how much, and whether they are clean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terminal import UserError


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


def since_last_run(cache: Path, model: str, repository: Path) -> Change:
    """Compare a cache with that of the last run that was evaluated, released or not."""
    from service.models.bucket import working_copy
    from service.models.repository import ModelRepository

    now = _contents(json.loads((cache / "manifest.json").read_text("utf-8")))
    with working_copy(repository) as folder:
        history = ModelRepository(folder).history(model)
    line = next((each for each in reversed(history) if "dataset_hash" in each), None)
    before = _cached(cache.parent, line["dataset_hash"]) if line else None
    if before is None:
        return Change(photos=len(now), added=len(now), removed=0, known=False)
    return Change(photos=len(now), added=len(now - before), removed=len(before - now), known=True)


def _cached(caches: Path, dataset_hash: str) -> set[tuple[str, str, str]] | None:
    for path in sorted(caches.glob("*/manifest.json")):
        try:
            manifest = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if manifest.get("dataset_hash") == dataset_hash and "root" in manifest:
            return _contents(manifest)
    return None


def _contents(manifest: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Return (split, label, content hash) of every photo."""
    labels = manifest["labels"]
    return {
        (split, labels[target], content)
        for split, listed in manifest["splits"].items()
        for target, content in zip(listed["targets"], listed.get("hashes", ()), strict=False)
    }
