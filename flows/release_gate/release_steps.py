"""The steps that need both rooms, as plain functions: a verb runs them, and so does a flow.

run directory ─► weigh: export, parity, both models on the held-out photos, smoke call, speed
              ─► Candidate ─► (a person's approval) ─► decide: published, or written down as kept
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.release_gate.gate import Rules
from storage import bucket_url
from terminal import Progress, no_progress

if TYPE_CHECKING:
    pass

EXPORT = "export/model.onnx"
"""Where in a run directory the exported model lies."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run's best epoch, exported and measured beside the version that serves. Plain values."""

    model: str
    run_dir: str
    onnx: str
    champion: int | None
    """The version that serves, which it was measured against; None if there is none."""
    promote: bool
    reason: str
    epoch: int
    val_top1: float
    """Validation top-1 of the exported file, counted by onnxruntime, as a fraction."""
    photos_checked: int
    max_difference: float
    """Largest difference of a probability between torch and onnxruntime."""
    split: str
    left_out: dict[str, int]
    dataset_hash: str
    image_sizes: tuple[int, int | None]
    """In pixels: its own, the champion's."""
    verdict: dict[str, Any]
    """`flows.release_gate.gate.Verdict` as plain values."""
    speed_ms: tuple[tuple[float, float], tuple[float, float] | None]
    """Of it and of the champion: one photo alone, a photo of a batch of 32."""
    smoke_photos: int
    """Photos that a server of its own answered over gRPC as the file itself does."""
    reference: dict[str, Any] = field(default_factory=dict)
    """What it predicts on held-out photos; `hansang drift` compares a day's traffic with it."""
    precision: dict[str, Any] = field(default_factory=dict)
    """`training.export.precision.Cost` as plain values: what its precision costs and gains."""

    def summary(self) -> dict[str, Any]:
        """Return what the history says of it: plain numbers, no table of classes."""
        named = ("photos", "challenger_top1", "champion_top1", "gained", "lost", "p_value")
        return {
            "reason": self.reason,
            "run": self.run_dir,
            "epoch": self.epoch,
            "dataset_hash": self.dataset_hash,
            "split": self.split,
            "val_top1": self.val_top1,
            **{name: self.verdict[name] for name in named},
            "ms_per_photo": self.speed_ms[0][0],
            "precision": self.precision.get("precision", "fp32"),
        }


@dataclass(frozen=True, kw_only=True)
class Release:
    """What became of a candidate: released, or kept out by the rules or by a person."""

    model: str
    released: bool
    reason: str
    version: int | None
    """The version that serves now; None if none does."""
    path: Path | None
    """Its `model.onnx`."""
    repository: Path
    candidate: Candidate

    @property
    def run_dir(self) -> Path:
        """The run directory that it came from."""
        return Path(self.candidate.run_dir)

    @property
    def epoch(self) -> int:
        """The best epoch of the run."""
        return self.candidate.epoch

    @property
    def val_top1(self) -> float:
        """Validation top-1 of the exported file, as a fraction."""
        return self.candidate.val_top1


def serving_version(model: str, repository: Path) -> int | None:
    """Return the version that serves, or None."""
    from service.errors import NotFoundError
    from service.models.bucket import Bucket
    from service.models.repository import ModelRepository

    if url := bucket_url(repository):
        return Bucket(url, Path()).serving().get(model)
    try:
        return ModelRepository(repository).serving(model)
    except NotFoundError:
        return None


def weigh(
    run_dir: Path,
    *,
    model: str = "food42",
    repository: Path = Path("models"),
    rules: Rules | None = None,
    precision: str = "fp32",
    progress: Progress = no_progress,
) -> Candidate:
    """Export the best epoch of a run and measure it beside the version that serves.

    Nothing of the model repository is changed.

    Raises:
        TrainingError: The run has no best epoch, or the parity gate refused the exported file.
        UserError: The photos are gone, or a server does not answer with the file as it should.
    """
    from flows.release_gate import served, traffic
    from flows.release_gate.gate import judge
    from service.errors import ModelContractError
    from service.models.model import Model
    from service.models.repository import ModelRepository
    from training.export.onnx_export import export

    rules = rules or Rules()
    champion = serving_version(model, repository)
    serving, unusable = None, ""
    if champion is not None:
        try:
            serving = Model(ModelRepository(repository).path(model, champion), device="cpu")
        except ModelContractError as error:
            # Made for other pixels, or damaged: nothing can be compared with it, or serve it.
            unusable = f"; version {champion} cannot be asked: {error}"
    # Before the export: photos that are gone are known at once, and not after minutes.
    photos = served.held_out(run_dir, serving)
    (run_dir / EXPORT).parent.mkdir(parents=True, exist_ok=True)
    exported = export(run_dir, run_dir / EXPORT, precision=precision, progress=progress)
    challenger = Model(exported.path, device="cpu")
    answered = served.answers(challenger, photos.files, progress)
    before = served.answers(serving, photos.files, progress) if serving else None
    verdict = judge(
        photos.truth,
        answered.predicted,
        before.predicted if before else None,
        labels=answered.labels,
        champion_labels=before.labels if before else (),
        same_weights=serving is not None and _same_weights(challenger, serving),
        rules=rules,
    )
    promote, reason = verdict.promote, verdict.reason + unusable
    smoke_photos = served.smoke(exported.path, photos.files)
    times = served.speed([each for each in (challenger, serving) if each])
    slow = _too_slow(times, _sizes(challenger, serving), rules)
    if slow:
        # A machine that was busy for a moment deserves a second look.
        times = served.speed([each for each in (challenger, serving) if each])
        slow = _too_slow(times, _sizes(challenger, serving), rules)
    if slow:
        promote, reason = False, slow if promote else f"{reason}; {slow}"
    return Candidate(
        model=model,
        run_dir=str(run_dir),
        onnx=str(exported.path),
        champion=champion,
        promote=promote,
        reason=reason,
        epoch=exported.epoch,
        val_top1=exported.val_top1,
        photos_checked=exported.photos_checked,
        max_difference=exported.max_difference,
        split=photos.split,
        left_out=photos.left_out,
        dataset_hash=photos.dataset_hash,
        image_sizes=_sizes(challenger, serving),
        verdict=verdict.to_dict(),
        speed_ms=(times[0], times[1] if len(times) > 1 else None),
        smoke_photos=smoke_photos,
        reference=traffic.reference(answered.predicted, answered.confidence),
        precision=asdict(exported.cost),
    )


def decide(
    candidate: Candidate,
    *,
    repository: Path = Path("models"),
    keep: int = 5,
    force: str = "",
    refused: str = "",
    approved: str = "",
) -> Release:
    """Publish a candidate if it was found better, and write down what was decided and why.

    Args:
        candidate: What `weigh` returned.
        repository: The model repository.
        keep: Versions to keep.
        force: A reason to release it whatever the rules say; parity and the contract still hold.
        refused: A person's reason to keep it out.
        approved: A person's word for it.

    Raises:
        ConflictError: Another version began to serve since it was measured.
        ServiceError: The model repository refused it.
    """
    from service.models.repository import ModelRepository

    store = ModelRepository(repository)
    reason = candidate.reason
    if force and not candidate.promote:
        reason = f"forced: {force} (the rules: {reason})"
    if approved:
        reason = f"{reason}; approved: {approved}"
    if refused:
        reason = f"refused: {refused} (the rules: {reason})"
    released = (candidate.promote or bool(force)) and not refused
    record = {**candidate.summary(), "reason": reason}
    version = candidate.champion
    if released:
        version = store.publish(
            candidate.model,
            Path(candidate.onnx),
            keep=keep,
            record=record,
            files={"release.json": json.dumps(asdict(candidate), ensure_ascii=False, indent=1)},
            instead_of=candidate.champion,
        )
    else:
        store.note(candidate.model, "kept", {"version": version, **record})
    return Release(
        model=candidate.model,
        released=released,
        reason=reason,
        version=version,
        path=store.path(candidate.model, version) if version else None,
        repository=repository,
        candidate=candidate,
    )


def release(
    run_dir: Path,
    *,
    model: str = "food42",
    repository: Path = Path("models"),
    keep: int = 5,
    rules: Rules | None = None,
    force: str = "",
    precision: str = "fp32",
    progress: Progress = no_progress,
) -> Release:
    """Measure the best epoch of a run; publish it if it is better than what serves.

    Raises:
        TrainingError: As `weigh`.
        ServiceError: As `decide`.
    """
    candidate = weigh(
        run_dir, model=model, repository=repository, rules=rules, precision=precision,
        progress=progress,
    )  # fmt: skip
    return decide(candidate, repository=repository, keep=keep, force=force)


def _same_weights(one: Any, other: Any) -> bool:
    """Whether two files are one epoch of one run, in two precisions."""
    (run, precision), (other_run, other_precision) = (
        (
            tuple(each.properties.get(key) for key in ("run_id", "epoch", "dataset_hash")),
            each.properties.get("precision", "fp32"),
        )
        for each in (one, other)
    )
    return bool(run[0]) and run == other_run and precision != other_precision


def _sizes(challenger: Any, champion: Any) -> tuple[int, int | None]:
    return challenger.metadata.image_size, champion.metadata.image_size if champion else None


def _too_slow(times: list[tuple[float, float]], sizes: tuple[int, int | None], rules: Rules) -> str:
    """Return why a model is too slow; nothing if it is not."""
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
