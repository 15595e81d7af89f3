"""Tables as spreadsheets save them: whatever the encoding and the separator, rows by column."""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from photo_folder.errors import FolderError
from photo_folder.names import printable
from photo_folder.reading import content, reason

_MAX_BYTES = 512 * 2**20
_SEPARATORS = (",", ";", "\t", "|")
_SAVE = "save it as 'CSV UTF-8'"
_END = "\0"
_BINARY = (
    (b"PK\x03\x04", "a workbook (.xlsx, .ods, .numbers), or a zip"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel (.xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "compressed"),
)
_SCRIPTS = (
    ("cp949", re.compile("[\uac00-\ud7a3\u3131-\u318e]")),
    ("cp932", re.compile("[\u3040-\u30ff\uff66-\uff9f]")),
)
"""Encodings of one script, and what at least half of their signs are."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a table."""

    rows: list[tuple[int, dict[str, str]]]
    """Line number, and the columns that were asked for and are there."""
    encoding: str


def read_table(path: Path, columns: Mapping[str, Sequence[str]], needed: Sequence[str]) -> Table:
    """Read a table by the names of its columns; capitals do not matter, other columns are left.

    Args:
        path: The file: UTF-8, UTF-16, CP949 (Korean), CP932 (Japanese) or CP1252 (Western), with
            `,`, `;`, `|` or tabs between its columns.
        columns: What is wanted → the names that it may have, the best first.
        needed: What must be there.

    Raises:
        FolderError: It cannot be read, is no text, or lacks a column.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FolderError(f"{path} has more than {_MAX_BYTES // 2**20} MiB; split it")
        data = content(str(path), _MAX_BYTES)
    except OSError as error:
        raise FolderError(f"cannot read {path}: {reason(error)}") from error
    text, encoding = _decoded(path, data)
    # Excel's own way of naming the separator.
    named = re.match(r"sep=(.)\r?\n", text)
    text = text[named.end() :] if named else text
    skipped = 1 if named else 0
    try:
        header, separator = _header(text, columns, needed)
        if separator is None:
            names = "; ".join(f"{wish} may be named {', '.join(columns[wish])}" for wish in needed)
            raise FolderError(
                f"{path} needs the columns {' and '.join(needed)} in its first line; it has"
                f" {[printable(name) for name in header]} ({names})"
            )
        places = _places(header, columns)
        found = []
        for line, cells in _rows(path, text, separator):
            if not any(cell.strip() for cell in cells):
                continue
            row = {
                wish: cells[place] if place < len(cells) else "" for wish, place in places.items()
            }
            found.append((line + skipped, row))
    except csv.Error as error:
        raise FolderError(f"cannot read {path}: {error}; {_SAVE}") from error
    return Table(found, encoding)


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line of each row after the first, and its cells.

    Raises:
        FolderError: A quote is never closed, and all rows after it would be one cell.
    """
    # A row of its own at the end: whoever still reads a cell there takes it for a part of that.
    rows = csv.reader(chain(io.StringIO(text, newline=""), (_END,)), delimiter=separator)
    start = before = 0
    try:
        for number, cells in enumerate(rows):
            if cells == [_END]:
                return
            if number:
                yield rows.line_num, cells
            start, before = before, rows.line_num
    except csv.Error as error:
        raise FolderError(
            f"{path}, line {before + 1}: {error}; is a quote never closed? Close it, or leave that"
            " column out"
        ) from error
    raise FolderError(f'{path}: the quote (") in line {start + 1} is never closed; close it')


def path_in(root: Path, given: str) -> str:
    r"""Return a path as a table means it: what Windows writes with `\` is one, too.

    Spaces around a name count where a file has them.
    """
    name = given if os.path.lexists(root / given) else given.strip()
    if "\\" in name and not os.path.lexists(root / name):
        name = name.replace("\\", "/")
    return os.path.normpath(name)


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    for magic, what in _BINARY:
        if data.startswith(magic):
            raise FolderError(f"{path} is {what}, and no text; {_SAVE}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _strictly(path, data, "utf-16"), "UTF-16"
    zeros = data[:4096].count(0)
    if zeros > len(data[:4096]) // 4:
        little = data[:4096][1::2].count(0) > zeros // 2
        return _strictly(path, data, "utf-16-le" if little else "utf-16-be"), "UTF-16"
    if zeros:
        raise FolderError(f"{path} is no text; {_SAVE}")
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        pass
    for encoding, script in _SCRIPTS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        signs = [sign for sign in text if sign > "\x7f"]
        if 2 * len(script.findall(text)) >= len(signs):
            return text, encoding.upper()
    return _strictly(path, data, "cp1252"), "CP1252"


def _strictly(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FolderError(f"{path} is in no encoding that is known; {_SAVE}") from error


def _header(
    text: str, columns: Mapping[str, Sequence[str]], needed: Sequence[str]
) -> tuple[list[str], str | None]:
    """Return the first line's columns and the separator; no separator where one is missing."""
    widest: list[str] = []
    for separator in _SEPARATORS:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        if set(needed) <= set(_places(header, columns)):
            return header, separator
        widest = max(widest, header, key=len)
    return widest, None


def _places(header: Sequence[str], columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    found = {
        wish: next((names.index(name) for name in allowed if name in names), None)
        for wish, allowed in columns.items()
    }
    return {wish: place for wish, place in found.items() if place is not None}
