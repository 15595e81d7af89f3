"""The last step of a release: a candidate is published, or its refusal is written down."""

import json
from dataclasses import asdict
from pathlib import Path

from flows.release_gate.candidate import Candidate, Release
from flows.release_gate.changes import PHOTOS
from flows.release_gate.evaluation import evaluate
from flows.release_gate.gate import Rules
from terminal import Progress, no_progress


def decide(
    candidate: Candidate,
    *,
    repository: Path = Path("models"),
    keep: int = 5,
    force: str = "",
    refused: str = "",
    approved: str = "",
) -> Release:
    """Publish a candidate if the rules promote it, and record what was decided and why.

    A candidate is released once, and kept out once: decided again after a crash, what was decided
    is returned, and nothing changes.

    Args:
        candidate: What `evaluate` returned.
        repository: The model repository.
        keep: Versions to keep.
        force: A reason to release it whatever the rules say; parity and the contract still hold.
        refused: A person's reason to keep it out.
        approved: Who approved it, and why.

    Raises:
        ConflictError: Another version began to serve since it was measured.
        ModelContractError: The exported file is no longer the one that was measured.
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
    if before := _decided(candidate, repository, released):
        return before
    record = {**candidate.summary(), "reason": reason}
    version = candidate.champion
    if released:
        version = store.publish(
            candidate.model, Path(candidate.onnx), keep=keep, record=record,
            files=_files(candidate), instead_of=candidate.champion, sha256=candidate.sha256,
        )  # fmt: skip
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


def _decided(candidate: Candidate, repository: Path, released: bool) -> Release | None:
    """Return what was decided of a candidate before; None if nothing, or it is released now."""
    from service.models.repository import ModelRepository

    store = ModelRepository(repository)
    for line in store.history(candidate.model):
        was = line["event"] == "released"
        if line.get("weighing") == candidate.weighing and (was or not released):
            version = line["version"]
            return Release(
                model=candidate.model,
                released=was,
                reason=line["reason"],
                version=version,
                path=store.path(candidate.model, version) if version else None,
                repository=repository,
                candidate=candidate,
            )
    return None


def _files(candidate: Candidate) -> dict[str, str]:
    """Return what lies beside the model: name → text."""
    from service.sessions.answers import FILE as ANSWERS

    measured = asdict(candidate)
    files = measured.pop("card")
    for name in (PHOTOS, ANSWERS):
        beside = Path(candidate.onnx).with_name(name)
        if beside.is_file():
            files[name] = beside.read_text("utf-8")
    return {"release.json": json.dumps(measured, ensure_ascii=False, indent=1), **files}


def release(
    run_dir: Path,
    *,
    model: str = "food42",
    repository: Path = Path("models"),
    keep: int = 5,
    rules: Rules | None = None,
    force: str = "",
    precision: str = "fp32",
    min_confidence: float | None = None,
    progress: Progress = no_progress,
) -> Release:
    """Measure the best epoch of a run; publish it if it is better than what serves.

    Raises:
        TrainingError: As `evaluate`.
        UserError: As `evaluate`.
        ServiceError: As `decide`.
    """
    candidate = evaluate(
        run_dir, model=model, repository=repository, rules=rules, precision=precision,
        min_confidence=min_confidence, progress=progress,
    )  # fmt: skip
    return decide(candidate, repository=repository, keep=keep, force=force)
