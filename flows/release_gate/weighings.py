"""What was measured of a run lies in the run, where a restart finds it.

<run>/export/<weighing>/model.onnx        the file that was measured, and is published
<run>/export/<weighing>/photos.json       which photos it learnt from, and was compared on
<run>/export/<weighing>/answers.json      what it answers here; published with it
<run>/export/<weighing>/candidate.json    what was measured; written last
"""

import json
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.release_gate.candidate import Candidate
from flows.release_gate.changes import PHOTOS, photos_of
from training.files import write_text

if TYPE_CHECKING:
    from service.models.model import Model

EXPORT = "model.onnx"
_MEASURED = "candidate.json"


def folder(run_dir: Path, weighing: str = "") -> Path:
    """Return the folder of a weighing; of a new one if it has no name."""
    new = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    return run_dir / "export" / (weighing or new)


def keep(where: Path, candidate: Candidate) -> None:
    """Write down what was measured, and which photos the run learnt from.

    Raises:
        TrainingError: The run's cache is gone.
    """
    from training.data.cache import manifest_of
    from training.runs import run_directory

    about = run_directory.read(Path(candidate.run_dir)) or {}
    photos = photos_of(manifest_of(Path(about["cache"])) or {})
    write_text(where / PHOTOS, json.dumps(photos, ensure_ascii=False))
    write_text(where / _MEASURED, json.dumps(asdict(candidate), ensure_ascii=False))


def keep_answers(where: Path, model: "Model") -> None:
    """Write down what the file answers on this machine: servers compare their own with it."""
    from service.sessions import answers

    write_text(where / answers.FILE, answers.text(model.predict, model.metadata.image_size))


def find(where: Path, **same: Any) -> Candidate | None:
    """Return what was measured there of the same checkpoint, precision and threshold.

    None if nothing was, or the exported file is another one now.
    """
    from service.files import sha256

    found = _read(where / _MEASURED, same)
    try:
        return found if found and sha256(where / EXPORT) == found.sha256 else None
    except OSError:
        return None


def of_version(version: int | None, model: str, repository: Path, **same: Any) -> Candidate | None:
    """Return the candidate that a version was, if its fields are the `same`."""
    from service.models.repository import ModelRepository

    if version is None:
        return None
    path = ModelRepository(repository).path(model, version).with_name("release.json")
    return _read(path, same)


def _read(path: Path, same: dict[str, Any]) -> Candidate | None:
    try:
        found = Candidate(**json.loads(path.read_text("utf-8")))
        return found if all(getattr(found, name) == same[name] for name in same) else None
    except (OSError, ValueError, TypeError, KeyError):
        # A model published by hand, or a file of a version of before.
        return None
