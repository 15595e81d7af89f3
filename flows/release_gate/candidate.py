"""What passes between the steps of a release: a measured candidate, and what became of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run's best epoch, exported and measured beside the version that serves.

    Plain values only: Prefect keeps it as JSON while a run waits for a person's approval.
    """

    model: str
    run_dir: str
    weighing: str
    """Names this measuring, in the run's folder and in the history: it is decided once."""
    onnx: str
    """The exported file, in a folder of this weighing alone."""
    sha256: str
    """Of the exported file: nothing else is published under these numbers."""
    checkpoint: str
    """SHA-256 of the checkpoint that was exported."""
    asked: str
    """The precision that was asked for, which may be `auto`."""
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
    """Counts of its answers to held-out photos; `hansang drift` compares traffic with them."""
    precision: dict[str, Any] = field(default_factory=dict)
    """`training.export.precision.Cost` as plain values: what its precision costs and gains."""

    min_confidence: float | None = None
    """The threshold that it was released with: less probable answers are not sure."""
    answered: dict[str, Any] = field(default_factory=dict)
    """`training.evaluation.selective.Answered` at the threshold, on the held-out photos."""

    card: dict[str, str] = field(default_factory=dict)
    """The model card, name → text of each of its files."""

    @property
    def threshold(self) -> str:
        """What its threshold answers of the held-out photos, as a clause; "none" without one."""
        found = self.answered
        if self.min_confidence is None:
            return "none"
        if not found:
            return f"{self.min_confidence:g}: no {self.split} photo is answered"
        return (
            f"{self.min_confidence:g}: {found['coverage']:.0%} of the {self.split} photos are"
            f" answered, {found['accuracy']:.1%} of them rightly"
        )

    def summary(self) -> dict[str, Any]:
        """Return what the model's history keeps of it: plain numbers, without the classes."""
        named = ("photos", "challenger_top1", "champion_top1", "gained", "lost", "p_value")
        return {
            "reason": self.reason,
            "weighing": self.weighing,
            "run": self.run_dir,
            "epoch": self.epoch,
            "dataset_hash": self.dataset_hash,
            "split": self.split,
            "val_top1": self.val_top1,
            **{name: self.verdict[name] for name in named},
            "ms_per_photo": self.speed_ms[0][0],
            "precision": self.precision.get("precision", "fp32"),
            "min_confidence": self.min_confidence,
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
