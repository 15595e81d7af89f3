"""The first step of a release: a run's best epoch is exported and measured, and nothing changes.

run directory ─► held-out photos ─► export ─► both models' answers ─► gate's rules
              ─► a call over gRPC ─► speed ─► Candidate (kept by weighings.py)
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.release_gate import weighings
from flows.release_gate.candidate import Candidate
from flows.release_gate.gate import Rules, Verdict, judge
from flows.release_gate.traffic import reference
from storage import bucket_url
from terminal import Progress, no_progress

if TYPE_CHECKING:
    from flows.release_gate.held_out import HeldOut
    from flows.release_gate.measure import Answers
    from service.models.model import Model


def serving_version(model: str, repository: Path) -> int | None:
    """Return the number of the version that serves; None if none does."""
    from service.errors import NotFoundError
    from service.models.bucket import BucketRepository
    from service.models.repository import ModelRepository

    if url := bucket_url(repository):
        return BucketRepository(url, Path()).serving().get(model)
    try:
        return ModelRepository(repository).serving(model)
    except NotFoundError:
        return None


def evaluate(
    run_dir: Path,
    *,
    model: str = "food42",
    repository: Path = Path("models"),
    rules: Rules | None = None,
    precision: str = "fp32",
    min_confidence: float | None = None,
    weighing: str = "",
    progress: Progress = no_progress,
) -> Candidate:
    """Export the best epoch of a run and measure it beside the version that serves.

    Nothing of the model repository is changed. What was measured under the same name before, by a
    process that was killed since, is returned as it is; and so is what was measured when the
    serving version was released, if it is this very epoch in this precision, with this threshold.

    Args:
        run_dir: The run directory.
        model: Name of the model.
        repository: The model repository.
        rules: What a model must reach; the defaults if None.
        precision: `fp32`, `fp16`, `int8` or `auto`.
        min_confidence: The threshold that it is served with: less probable answers are not sure.
        weighing: Names a folder in the run for the export and the numbers; a new one if empty.
        progress: Is called with the photos that are measured.

    Raises:
        TrainingError: The run has no best epoch, or the parity gate refused the exported file.
        UserError: The photos are gone, or a server does not answer with the file as it should.
    """
    from training.export.onnx_export import best_digest

    version = serving_version(model, repository)
    checkpoint = best_digest(run_dir)
    folder = weighings.folder(run_dir, weighing)
    same: dict[str, Any] = {
        "checkpoint": checkpoint, "asked": precision, "min_confidence": min_confidence
    }  # fmt: skip
    done = weighings.of_version(version, model, repository, **same)
    if done := done or weighings.find(folder, **same):
        return done
    measured = _weigh(
        run_dir, model, version, repository, rules or Rules(), precision, min_confidence, folder,
        progress,
    )  # fmt: skip
    candidate = Candidate(
        model=model, run_dir=str(run_dir), weighing=folder.name, champion=version, **same,
        **measured,
    )  # fmt: skip
    weighings.keep(folder, candidate)
    return candidate


def _weigh(
    run_dir: Path,
    model: str,
    version: int | None,
    repository: Path,
    rules: Rules,
    precision: str,
    min_confidence: float | None,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Return what is measured of a run's best epoch, as fields of `Candidate`."""
    # These load onnxruntime and torch; the command line and the flows import this module first.
    from flows.release_gate.held_out import held_out
    from flows.release_gate.measure import smoke
    from service.files import sha256
    from service.models.model import Model
    from training.export.onnx_export import export_onnx
    from training.reports.card import as_json, as_markdown, card

    champion, unusable = _open_champion(model, version, repository)
    # Before the export: photos that are gone are known at once, and not after minutes.
    photos = held_out(run_dir, champion)
    onnx = folder / weighings.EXPORT
    onnx.parent.mkdir(parents=True, exist_ok=True)
    exported = export_onnx(
        run_dir, onnx, precision=precision, min_confidence=min_confidence, progress=progress
    )
    digest = sha256(onnx)
    challenger = Model(onnx, device="cpu")
    weighings.keep_answers(folder, challenger)
    answered, verdict = _compare(challenger, champion, photos, rules, progress)
    smoke_photos = smoke(onnx, photos.files)
    times, slow = _measure_speed(challenger, champion, rules)
    why = [] if slow and verdict.promote else [verdict.reason + unusable]
    told = card(run_dir, min_confidence=min_confidence)
    return {
        "onnx": str(onnx),
        "sha256": digest,
        "promote": verdict.promote and not slow,
        "reason": "; ".join([*why, slow] if slow else why),
        "epoch": exported.epoch,
        "val_top1": exported.val_top1,
        "photos_checked": exported.photos_checked,
        "max_difference": exported.max_difference,
        "split": photos.split,
        "left_out": photos.left_out,
        "dataset_hash": photos.dataset_hash,
        "image_sizes": _sizes(challenger, champion),
        "verdict": verdict.to_dict(),
        "speed_ms": (times[0], times[1] if len(times) > 1 else None),
        "smoke_photos": smoke_photos,
        "reference": reference(
            map(challenger.metadata.counted_as, answered.predicted), answered.confidence
        ),
        "answered": _answered(answered, photos, min_confidence),
        "precision": asdict(exported.cost),
        "card": {"CARD.md": as_markdown(told), "card.json": as_json(told)},
    }


def _answered(
    answers: "Answers", photos: "HeldOut", min_confidence: float | None
) -> dict[str, Any]:
    """Return what is answered at the threshold, as plain values; empty without one, or if none."""
    from training.evaluation import selective
    from training.evaluation.clusters import Clusters

    if min_confidence is None:
        return {}
    right = np.array([a == b for a, b in zip(answers.predicted, photos.truth, strict=True)], bool)
    found = selective.at(min_confidence, answers.confidence, right, Clusters.of(photos.groups))
    return asdict(found) if found else {}


def _open_champion(model: str, version: int | None, repository: Path) -> tuple["Model | None", str]:
    """Return the model that serves, or None and a clause that says why it cannot be asked."""
    from service.errors import ModelContractError
    from service.models.model import Model
    from service.models.repository import ModelRepository

    if version is None:
        return None, ""
    try:
        return Model(ModelRepository(repository).path(model, version), device="cpu"), ""
    except ModelContractError as error:
        # Made for other pixels, or damaged: nothing can be compared with it, or serve it.
        return None, f"; version {version} cannot be asked: {error}"


def _compare(
    challenger: "Model",
    champion: "Model | None",
    photos: "HeldOut",
    rules: Rules,
    progress: Progress,
) -> tuple["Answers", Verdict]:
    """Return the challenger's answers, and what the rules say of them beside the champion's."""
    from flows.release_gate.measure import answers

    answered = answers(challenger, photos.files, progress)
    before = answers(champion, photos.files, progress) if champion else None
    verdict = judge(
        photos.truth,
        answered.predicted,
        before.predicted if before else None,
        labels=answered.labels,
        champion_labels=before.labels if before else (),
        groups=photos.groups,
        same_weights=champion is not None and _same_weights(challenger, champion),
        rules=rules,
    )
    return answered, verdict


def _measure_speed(
    challenger: "Model", champion: "Model | None", rules: Rules
) -> tuple[list[tuple[float, float]], str]:
    """Return the times of both (see `speed`), and why the challenger is too slow if so."""
    from flows.release_gate.measure import speed

    models = [each for each in (challenger, champion) if each]
    sizes = _sizes(challenger, champion)
    times = speed(models)
    slow = _too_slow(times, sizes, rules)
    if slow:
        # The machine may have been busy for a moment: only what is slow twice is slow.
        times = speed(models)
        slow = _too_slow(times, sizes, rules)
    return times, slow


def _same_weights(one: "Model", other: "Model") -> bool:
    """Return whether two files hold the same epoch of the same run, served otherwise."""

    def source(model: "Model") -> tuple[str | None, ...]:
        return tuple(model.properties.get(key) for key in ("run_id", "epoch", "dataset_hash"))

    def served(model: "Model") -> tuple[str, float | None]:
        return model.properties.get("precision", "fp32"), model.metadata.min_confidence

    known = bool(source(one)[0])
    return known and source(one) == source(other) and served(one) != served(other)


def _sizes(challenger: "Model", champion: "Model | None") -> tuple[int, int | None]:
    return challenger.metadata.image_size, champion.metadata.image_size if champion else None


def _too_slow(times: list[tuple[float, float]], sizes: tuple[int, int | None], rules: Rules) -> str:
    """Return why a model is too slow; an empty string if it is not."""
    alone = times[0][0]
    if rules.max_ms is not None and alone > rules.max_ms:
        return f"too slow: {alone:.1f} ms for one photo, and {rules.max_ms:g} ms are allowed"
    if len(times) < 2 or sizes[1] is None:
        return ""
    # More pixels are a person's choice, and cost in proportion; the rest must not grow.
    pixels = max((sizes[0] / sizes[1]) ** 2, 1)
    slower = max(new / old for new, old in zip(times[0], times[1], strict=True))
    if slower > rules.max_slowdown * pixels:
        return (
            f"too slow: {slower:.2f} times what serves, and {rules.max_slowdown * pixels:.2f} are"
            " allowed"
        )
    return ""
