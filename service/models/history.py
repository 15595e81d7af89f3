"""The history of a model: a line for each release, refusal and rollback, beside its versions.

<model>/history.jsonl    the lines, oldest first; always replaced as a whole

A release replaces config.pbtxt and then adds a line, and a kill may come between. So config.pbtxt
holds the line of the change that made it, too. Whoever changes the model next adds it where it is
missing: history has each change of what serves, once and in order.

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


def read(folder: Path, latest: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the lines, oldest first, and the latest change's where it is missing.

    Nothing is written, so no lock is needed.

    Raises:
        ModelContractError: The file is damaged.
    """
    lines = _lines(folder)
    if latest is not None and latest not in lines:
        lines.append(dict(latest))
    return lines


def line(event: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of an event that happens now."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **record}


def add(folder: Path, line: Mapping[str, Any] | None) -> None:
    """Add a line, unless it is there already, or is None."""
    if line is None or line in _lines(folder):
        return
    path = folder / _HISTORY
    before = path.read_text("utf-8") if path.exists() else ""
    replace(path, before + json.dumps(line, ensure_ascii=False) + "\n")


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
