"""A suspect: one photo in the list of a review, and the list as a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.files import write_text
from training.review.photos import Kind

SHOWN = 5
"""Likeliest classes of a photo, and photos most like it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A photo, and why it is worth a look."""

    photo: str
    """Its path below the data; a whole path where it lies elsewhere."""
    label: str
    suggested: str
    """The class that the models find likeliest; the label itself where they agree with it."""
    score: float
    """From 0 to 1, the most suspicious. Other kinds than `label` end at 0.5."""
    kind: Kind
    split: str
    likeliest: list[tuple[str, float]]
    """Up to five classes with their probabilities."""
    neighbours: list[str]
    """Up to five photos that look most alike."""
    xy: tuple[float, float] | None
    """Its place on a map of the features, 0 to 1; None without one."""
    group: str | None
    doubtful: bool = False
    """Whether the models are confident of another class than the label."""
    heat: str = ""
    """M x M digits: where in the photo `suggested` is seen, 9 the most; empty without a map."""
    note: str
    """A sentence, where the kind alone does not say it; else empty."""


def doubtful_in(folder: Path) -> set[tuple[str, str]] | None:
    """Return photo and label of what the review in a folder doubts; None if there is none."""
    try:
        there = json.loads((folder / "review.json").read_text("utf-8"))
        return {(one["photo"], one["label"]) for one in there["suspects"] if one.get("doubtful")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(found: Mapping[str, Any], folder: Path) -> Path:
    """Write `review.json` into a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "review.json"
    write_text(out, json.dumps(found, ensure_ascii=False))
    return out
