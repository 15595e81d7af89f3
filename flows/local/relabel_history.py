"""The history of corrections, and the way back: who moved which photo, from where, and when.

<data>/.relabels.jsonl    a move a line, oldest first; taking one back is a line as well
<data>/.dropped/          photos that show no class, under the names that they had
"""

import getpass
import json
import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.local.photo_moves import Move, make, require_writable
from terminal import UserError

HISTORY = ".relabels.jsonl"
DROPPED = ".dropped"


def told(root: Path) -> list[dict[str, Any]]:
    """Return the history of a data set, oldest first."""
    try:
        lines = (root / HISTORY).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line]


def apply(moves: Sequence[Move], data: Path, *, undoes: str = "") -> None:
    """Move photos of the data set, copy others in, and write each down.

    Args:
        moves: What is to be done.
        data: The data set.
        undoes: The command that these moves take back, if they do.

    Raises:
        UserError: The data set cannot be written to; if that is known before, nothing was moved.
    """
    root = data.absolute()
    require_writable(moves, root)
    shared = {"command": uuid.uuid4().hex, "by": _user(), **({"undoes": undoes} if undoes else {})}
    try:
        with (root / HISTORY).open("a", encoding="utf-8", errors="backslashreplace") as history:
            for move in moves:
                make(move)
                source = move.source.relative_to(root) if move.before else move.source
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                    "from": str(source),
                    "to": str(move.target.relative_to(root)),
                    "before": move.before,
                    "label": move.label,
                    **shared,
                }
                history.write(json.dumps(line, ensure_ascii=False) + "\n")
                history.flush()
            os.fsync(history.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {data}: {error}; give the same command again") from error


def way_back(data: Path) -> tuple[list[Move], str]:
    """Return what takes back the last command that is not taken back yet, and its name.

    A photo that was copied in is moved aside: nothing is deleted.

    Raises:
        UserError: Nothing is left to take back, or a photo no longer lies where it was put, or
            another lies where it was.
    """
    root = data.absolute()
    lines = told(root)
    undone = {(line["undoes"], line["from"]) for line in lines if "undoes" in line}
    # Lines of before commands had names are taken back one by one.
    left = [
        {"command": f"{line['time']} {line['to']}", **line}
        for line in lines
        if "undoes" not in line
    ]
    left = [line for line in left if (line["command"], line["to"]) not in undone]
    if not left:
        raise UserError(f"no correction of {data} is left to take back")
    command = left[-1]["command"]
    moves, wrong = [], []
    for line in reversed([line for line in left if line["command"] == command]):
        source = root / line["to"]
        target = root / (line["from"] if line["before"] else Path(DROPPED) / line["to"])
        if not source.is_file() and target.is_file():
            continue  # taken back, and killed before it was written down
        if not source.is_file():
            wrong.append(f"{line['to']} is not there any more")
        elif target.exists():
            wrong.append(f"another photo lies at {target.relative_to(root)}")
        moves.append(Move(source=source, target=target, label=line["before"], before=line["label"]))
    if wrong:
        raise UserError(f"nothing was taken back: {'; '.join(wrong[:10])}")
    return moves, command


def _user() -> str:
    """Return who works here, by the system's name; empty where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
