"""A file of results, CSV or JSON lines, that grows photo by photo and may be continued."""

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from photo_folder.names import printable
from service.files import replace
from terminal import UserError

if TYPE_CHECKING:
    from service.client.client import Result


def as_json(file: Path | str, result: "Result") -> dict[str, Any]:
    """Return a result in the JSON form of `hansang classify --json`."""
    return {
        "photo": str(file),
        "error": result.error,
        "model": result.model,
        "model_version": result.model_version,
        "below_threshold": result.below_threshold,
        "classes": [{"label": c.label, "probability": c.probability} for c in result.classes],
    }


def _escaped(name: str) -> str:
    r"""Return a name as valid Unicode: a byte that is no UTF-8 is written as `\udcb1`."""
    return name.encode("utf-8", "backslashreplace").decode()


class ResultsFile:
    """Answers, one a line. `photo in results` tells whether one was written before.

    Attributes:
        failed: Path of the file beside it that lists what could not be classified, and why.
    """

    def __init__(self, path: Path, top_k: int) -> None:
        """Create the file, or continue it.

        Raises:
            UserError: Its name ends in no known format, it cannot be written, or it has other
                columns.
        """
        if path.suffix not in (".csv", ".jsonl"):
            raise UserError(f"--out {path}: name it .csv or .jsonl")
        self.path = path
        self.failed = path.with_name(path.name + ".failed")
        self._csv = path.suffix == ".csv"
        self._header = ["photo", "model", "model_version", "below_threshold"]
        for place in range(1, top_k + 1):
            self._header += [f"label_{place}", f"probability_{place}"]
        try:
            self._photos = self._mend()
            # JSON's own way of writing what is no Unicode.
            self._file = path.open("a", encoding="utf-8", newline="", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"--out {path}: {error.strerror}") from error
        if self._csv and path.stat().st_size == 0:
            self._write(self._line(self._header))

    def __contains__(self, photo: str) -> bool:
        return _escaped(photo) in self._photos

    def add(self, file: Path, result: "Result") -> None:
        """Write an answer. A line that a kill cut off is removed when the file is continued."""
        if self._csv:
            # As in JSON, which most readers of tables take for a truth value, too.
            unsure = json.dumps(result.below_threshold)
            row: list[Any] = [_escaped(str(file)), result.model, result.model_version, unsure]
            for found in result.classes:
                row += [found.label, f"{found.probability:.6f}"]
            self._write(self._line(row))
        else:
            self._write(json.dumps(as_json(file, result), ensure_ascii=False) + "\n")

    def list_failed(self, failed: list[tuple[Path, str]]) -> None:
        """Replace the list of photos that failed; if there are none, remove it."""
        if not failed:
            self.failed.unlink(missing_ok=True)
            return
        text = "".join(f"{printable(str(file))}\t{reason}\n" for file, reason in failed)
        replace(self.failed, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _line(self, row: list[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        return text.getvalue()

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def _mend(self) -> set[str]:
        """Remove a line that a kill cut off, and return the photos of the others."""
        if not self.path.exists():
            return set()
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if self._csv:
            # A name may contain a line break: an incomplete row may end with one, inside quotes.
            while whole.count(b'"') % 2:
                whole = whole[: whole.rstrip(b"\n").rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        text = whole.decode("utf-8")
        try:
            if not self._csv:
                return {_escaped(json.loads(line)["photo"]) for line in text.split("\n") if line}
            rows = list(csv.reader(io.StringIO(text, newline="")))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--out {self.path} holds no results: {error}") from error
        if rows and rows[0] != self._header:
            raise UserError(
                f"--out {self.path} has other columns; use the same --top-k, or another file"
            )
        return {row[0] for row in rows[1:]}
