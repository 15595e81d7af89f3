"""The history of a model: a line for each release, refusal and rollback, beside its versions.

<model>/history.jsonl    the lines, oldest first; always replaced as a whole
<model>/.pending.json    the line of a release or rollback under way

A release replaces config.pbtxt and adds a line, which are two steps. So the line is first written
as pending, and moved after the switch. If a kill leaves it pending, the next change decides: the
line is true if its version serves, and dropped if not.

The caller holds the model's lock.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import ModelContractError
from service.files import replace

_HISTORY = "history.jsonl"
_PENDING = ".pending.json"


def read(folder: Path, serving: int | None) -> list[dict[str, Any]]:
    """Return the lines, oldest first, with a pending one if its version serves.

    Nothing is written, so no lock is needed.

    Raises:
        ModelContractError: The file is damaged.
    """
    pending = _pending(folder)
    lines = _lines(folder)
    if pending is not None and pending["version"] == serving and pending not in lines:
        lines.append(pending)
    return lines


def add(folder: Path, event: str, record: Mapping[str, Any]) -> None:
    """Add a line about an event that did not change what serves."""
    _append(folder, _stamped(event, record))


def begin(folder: Path, event: str, record: Mapping[str, Any]) -> None:
    """Write the pending line of a switch that follows; `record` has the new `version`."""
    replace(folder / _PENDING, _line(_stamped(event, record)))


def finish(folder: Path, serving: int | None) -> None:
    """Add the pending line, if any, to the history if its version serves, and drop it if not."""
    pending = _pending(folder)
    if pending is None:
        return
    if pending["version"] == serving and pending not in _lines(folder):
        _append(folder, pending)
    (folder / _PENDING).unlink()


def _pending(folder: Path) -> dict[str, Any] | None:
    try:
        line: dict[str, Any] = json.loads((folder / _PENDING).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return line


def _lines(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / _HISTORY).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    try:
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise ModelContractError(
            f"{folder / _HISTORY} is damaged: {error}; move it away, it is for people alone"
        ) from error


def _append(folder: Path, line: Mapping[str, Any]) -> None:
    path = folder / _HISTORY
    before = path.read_text("utf-8") if path.exists() else ""
    replace(path, before + _line(line))


def _stamped(event: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **record}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
