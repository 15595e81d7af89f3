"""What the service answered lately, from its /metrics, beside what it answered on held-out photos.

    scrape (/metrics) ─► remember (.traffic.jsonl) ─► recent ─► compare ─► Drift

Counters only grow, and begin at zero with each start of a server. Each scrape is therefore kept as
a line of `<model>/.traffic.jsonl`, and a day's counts are the sum of the growth between scrapes, of
each replica by itself.

The measure is the population stability index over the classes and over the confidences:
PSI = Σ (p - q) · ln(p / q). Equal populations give about (B - 1)(1/n + 1/m) by chance alone
(Yurdakul 2018), for B bins and n, m counts. That much is subtracted, so that a quiet day with few
images raises no alarm.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.release_gate.scrapes import BINS, scrape
from storage import Bucket, bucket_url, shown
from terminal import UserError
from training.files import write_text

_SCRAPES = ".traffic.jsonl"
_KEPT_S = 8 * 86400.0
_KEPT = 200
"""Scrapes that are kept however old they are."""


class DriftRules(BaseModel):
    """When the traffic of some hours counts as drifted from the held-out photos."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: float = Field(24, gt=0, description="How far to look back.")
    max_psi: float = Field(0.2, gt=0, description="Stability index above which it drifts.")
    min_images: int = Field(200, ge=1, description="Fewer images than this say nothing.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """What the comparison found."""

    drifted: bool
    reason: str
    images: int
    hours: float
    """What the scrapes span; it may differ from what was asked for."""
    classes_psi: float
    confidence_psi: float
    mean_confidence: tuple[float, float]
    """Held out, and lately; by the middles of the bins."""
    moved: list[tuple[str, float, float]]
    """Classes whose share moved most: label, held out, lately."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def reference(predicted: Iterable[str], confidence: Sequence[float]) -> dict[str, Any]:
    """Count a model's answers to held-out photos as the service counts its own.

    Args:
        predicted: What each answer is counted as: `ModelMetadata.counted_as` of its class.
        confidence: The probability of each answer.
    """
    labels: dict[str, int] = {}
    for label in predicted:
        labels[label] = labels.get(label, 0) + 1
    bins = [0] * len(BINS)
    for value in confidence:
        bins[next((i for i, end in enumerate(BINS) if value <= end), len(BINS) - 1)] += 1
    return {"predictions": labels, "confidence": bins}


def remember(folder: Path, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add scrapes to those of a model folder, and return all of the last 8 days, in order.

    The latest 200 are kept however old they are; those of a time that is yet to come are forgotten.

    Raises:
        UserError: The file of scrapes is damaged.
    """
    scrapes: list[dict[str, Any]] = []
    for line in (_read(folder, _SCRAPES) or b"").decode(errors="replace").splitlines():
        try:
            scrapes.append(json.loads(line))
        except ValueError as error:
            where = f"{shown(folder)}/{_SCRAPES}"
            raise UserError(f"{where} is damaged ({error}); remove it") from error
    # A clock that was set back leaves scrapes of the future, which nothing can follow.
    now_s = found[-1]["time_s"]
    past = [each for each in scrapes if each["time_s"] <= now_s]
    # Age alone would forget everything while a clock is days ahead, for good when it comes back.
    old = [each for each in past[:-_KEPT] if each["time_s"] <= now_s - _KEPT_S]
    scrapes = past[len(old) :]
    scrapes += [dict(each) for each in found]
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in scrapes)
    if url := bucket_url(folder):
        Bucket(url).write(_SCRAPES, text.encode())
    else:
        write_text(folder / _SCRAPES, text)
    return scrapes


def _read(folder: Path, name: str) -> bytes | None:
    """Return a file of a folder, which may lie in a bucket; None if it is not there."""
    if url := bucket_url(folder):
        return Bucket(url).read(name)
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None


def recent(scrapes: Sequence[Mapping[str, Any]], hours: float) -> tuple[dict[str, Any], float]:
    """Return the counts of the last hours under the version that serves, and the hours they span.

    Each server's counts are the growth since its scrape before. The first one has none: its counts
    began with its server's start.
    """
    last = scrapes[-1]
    window = [
        each for each in scrapes
        if each["version"] == last["version"] and each["time_s"] >= last["time_s"] - hours * 3600
    ]  # fmt: skip
    predictions: dict[str, float] = {}
    bins = [0.0] * len(BINS)
    earlier = [each for each in scrapes if each["time_s"] < window[0]["time_s"]]
    begin_s = earlier[-1]["time_s"] if earlier else min(each["started_s"] for each in window)
    for now in window:
        before = _before(scrapes, now)
        for label, count in now["predictions"].items():
            grown = count - before["predictions"].get(label, 0)
            predictions[label] = predictions.get(label, 0) + grown
        for index, count in enumerate(now["confidence"]):
            bins[index] += count - (before["confidence"][index] if before["confidence"] else 0)
    return {"predictions": predictions, "confidence": bins}, (last["time_s"] - begin_s) / 3600


def _before(scrapes: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the last scrape of the same start of the same server; nothing if there is none."""
    # Scrapes of before replicas were told apart name no server.
    server = now.get("server")
    same: list[Mapping[str, Any]] = [
        each for each in scrapes
        if each.get("server", server) == server
        and each["started_s"] == now["started_s"] and each["time_s"] < now["time_s"]
    ]  # fmt: skip
    return same[-1] if same else {"predictions": {}, "confidence": []}


def compare(
    known: Mapping[str, Any], found: Mapping[str, Any], hours: float, rules: DriftRules
) -> Drift:
    """Compare what was answered lately with what was answered on held-out photos."""
    labels = sorted({*known["predictions"], *found["predictions"]})
    held = [float(known["predictions"].get(label, 0)) for label in labels]
    now = [float(found["predictions"].get(label, 0)) for label in labels]
    images = int(sum(now))
    classes = stability_index(held, now)
    confidence = stability_index(known["confidence"], found["confidence"])
    shares = [
        (label, a / max(sum(held), 1), b / max(sum(now), 1))
        for label, a, b in zip(labels, held, now, strict=True)
    ]
    enough = images >= rules.min_images
    over = [
        f"{what} (stability index {value:.2f}, above {rules.max_psi:g})"
        for what, value in (("classes", classes), ("confidence", confidence))
        if value > rules.max_psi
    ]
    if not enough:
        reason = f"{images} images say nothing; {rules.min_images} are needed"
    elif over:
        reason = "drifted: " + " and ".join(over)
    else:
        reason = f"as on held-out photos (index {classes:.2f} classes, {confidence:.2f} confidence)"
    return Drift(
        drifted=enough and bool(over),
        reason=reason,
        images=images,
        hours=hours,
        classes_psi=classes,
        confidence_psi=confidence,
        mean_confidence=(_mean(known["confidence"]), _mean(found["confidence"])),
        moved=sorted(shares, key=lambda row: -abs(row[2] - row[1]))[:5],
    )


def stability_index(known: Sequence[float], found: Sequence[float]) -> float:
    """Return the index of two histograms, less what chance gives; 0 at least."""
    bins = len(known)
    n, m = sum(known), sum(found)
    if not n or not m:
        return 0.0
    total = 0.0
    for a, b in zip(known, found, strict=True):
        # Half a count in every bin: an empty one must not be infinitely far.
        p, q = (a + 0.5) / (n + 0.5 * bins), (b + 0.5) / (m + 0.5 * bins)
        total += (p - q) * math.log(p / q)
    return max(total - (bins - 1) * (1 / n + 1 / m), 0.0)


def _mean(bins: Sequence[float]) -> float:
    middles = [(low + high) / 2 for low, high in zip((0.0, *BINS[:-1]), BINS, strict=True)]
    return sum(m * count for m, count in zip(middles, bins, strict=True)) / max(sum(bins), 1)


def check_drift(model: str, metrics: str, repository: Path, rules: DriftRules) -> Drift:
    """Compare what the service answered lately with what its version answered when released.

    Raises:
        UserError: The service cannot be reached, or its version was not released by the gate.
    """
    from service.models.repository import ModelRepository

    found = scrape(metrics, model)
    version = found[-1]["version"]
    store = ModelRepository(repository)
    scrapes = remember(store.path(model, version).parents[1], found)
    known = store.path(model, version).with_name("release.json")
    try:
        reference = json.loads(_read(known.parent, known.name) or b"")["reference"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{shown(known)} has no held-out answers to compare with ({error}); release with:"
            " hansang release"
        ) from error
    counts, hours = recent(scrapes, rules.hours)
    return compare(reference, counts, hours, rules)
