"""One run or cache in a bucket and its copy on this machine: fetched whole, pushed whole.

s3://bucket/runs/first/manifest.json    names of the files, and their SHA-256; written last
s3://bucket/runs/first/<SHA-256>/<name> the files; none is ever replaced

The manifest is replaced only where it is still the one that this machine saw last. So whoever is
killed, at whatever moment, leaves a whole state; and where two go on with one run, one is stopped.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from storage import Bucket, StorageError, TakenError
from terminal import say
from training.errors import RunError
from training.files import write_text

_FORMAT = 1
_MANIFEST = "manifest.json"
_NOTE = ".mirror.json"
_EVERY_S = 1.0
_TRIES = 3
_PLACE = re.compile(r"[0-9a-f]{64}/[^/]+")
_REPLACED = (".safetensors", ".npy", ".onnx")
"""Files that are replaced and never written into: a link to one stays what it was."""


class Mirror:
    """A folder in a bucket, and its copy here. Used by one thread at a time."""

    def __init__(self, url: str, copy: Path) -> None:
        """Name a run or a cache in a bucket, and where its copy lies.

        Raises:
            StorageError: s3fs is not installed.
        """
        self.url = url
        self.copy = copy
        self._bucket = Bucket(self.url)
        self._hashes: dict[tuple[int, int, int], str] = {}
        self._taken: TakenError | None = None

    def pull(self) -> bool:
        """Bring the copy in line; return whether there is one now.

        A copy that went on from what the bucket holds is left as it is.

        Raises:
            StorageError: The bucket cannot be read.
            RunError: What it holds is damaged.
        """
        for further in reversed(range(_TRIES)):
            there = self._bucket.tagged(_MANIFEST)
            if there is None:
                return self.copy.is_dir()
            if self.copy.is_dir() and there[1] == self._tag():
                return True
            try:
                self._take(*there)
            except StorageError as error:
                # Removed since the manifest was read: whoever trains pushed a newer one.
                if not further or not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return True

    def is_there(self) -> bool:
        """Return whether the bucket has it."""
        return self._bucket.tagged(_MANIFEST) is not None

    def _take(self, manifest: bytes, tag: str) -> None:
        say(f"fetching {self.url} to {self.copy}")
        coming = self.copy.with_name(f".tmp-{self.copy.name}")
        shutil.rmtree(coming, ignore_errors=True)
        known = {self._hash(path): path for path in _files(self.copy).values()}
        for name, place in self._read(manifest).items():
            (coming / name).parent.mkdir(parents=True, exist_ok=True)
            digest = place.split("/")[0]
            if digest in known:
                _stage(known[digest], coming / name)
            else:
                self._fetch(place, coming / name)
                known[digest] = coming / name
        self._note(coming, tag)
        if self.copy.exists():
            shutil.rmtree(self.copy)
        coming.rename(self.copy)

    def push(self) -> None:
        """Bring the bucket in line with the copy.

        Raises:
            StorageError: It cannot be written, or the copy not be read; it holds what it held, or
                all that is new.
            TakenError: Another machine pushed meanwhile; nothing is changed.
        """
        staged = self.copy / ".mirror"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            there = self._bucket.names()
            # By their hash: the best checkpoint is the last one under another name, and sent once.
            known = {place.split("/")[0]: place for place in there if _PLACE.fullmatch(place)}
            files: dict[str, str] = {}
            for name, path in _files(self.copy).items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    _stage(path, staged / name)
                except FileNotFoundError:
                    continue  # pruned since it was listed: a newer one is there
                digest = self._hash(staged / name)
                if digest not in known:
                    known[digest] = f"{digest}/{path.name}"
                    self._bucket.put(known[digest], staged / name)
                files[name] = known[digest]
            told = {"format": _FORMAT, "files": files}
            text = json.dumps(told, ensure_ascii=False, indent=1, sort_keys=True)
            tag = self._bucket.replace(_MANIFEST, text.encode(), self._tag())
            self._note(self.copy, tag)
            # What was before, and what killed ones left: nobody's manifest names it any more.
            for left in sorted({*there} - {*files.values()}):
                if _PLACE.fullmatch(left):  # what is not ours stays
                    self._bucket.remove(left)
        except OSError as error:
            raise StorageError(f"{self.copy}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def follow(self, ended: threading.Event, lost: Callable[[], object]) -> None:
        """Push what changes until it ended, or another machine went on."""
        # At first the copy may be ahead already.
        seen: list[tuple[str, int, int]] = []
        failure = ""
        while not ended.wait(_EVERY_S):
            state = self._state()
            if state == seen:
                continue
            try:
                self.push()
                seen, failure = state, ""
            except TakenError as error:
                self._taken = error
                lost()
                return
            except StorageError as error:
                # Work goes on: the copy has everything, and the next turn tries again.
                if str(error) != failure:
                    say(f"warning: not pushed yet: {error}")
                failure = str(error)

    def finish(self) -> None:
        """Push what is left.

        Raises:
            StorageError: It cannot be written; the copy is whole.
            RunError: Another machine went on with it.
        """
        try:
            if self._taken is None and self.copy.is_dir():
                self.push()
        except TakenError as error:
            self._taken = error
        if self._taken is not None:
            raise RunError(
                f"another machine went on with {self.url} ({self._taken}); what this one did since"
                " is dropped, and the same command goes on from there"
            )

    def _state(self) -> list[tuple[str, int, int]]:
        """Return what is another when a checkpoint, or anything else, was written."""
        found = []
        for name, path in _files(self.copy).items():
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((name, stat.st_mtime_ns, stat.st_size))
        return found

    def _read(self, manifest: bytes) -> dict[str, str]:
        try:
            told: dict[str, Any] = json.loads(manifest)
            files: dict[str, str] = told["files"]
            if told["format"] != _FORMAT or any(map(_is_outside, (*files, *files.values()))):
                raise ValueError("it is of another format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self.url}/{_MANIFEST} is damaged: {error}") from error
        return files

    def _fetch(self, place: str, path: Path) -> None:
        for _ in range(_TRIES):
            self._bucket.get(place, path)
            if self._hash(path) == place.split("/")[0]:
                return
        raise RunError(f"{self.url}/{place} is damaged: its SHA-256 is another")

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        # Found again by what it is: a link has another name.
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def _tag(self) -> str | None:
        """Return the tag of the manifest that the copy comes from; None if it is from here."""
        try:
            note: dict[str, str] = json.loads((self.copy / _NOTE).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return note.get("tag") if note.get("url") == self.url else None

    def _note(self, folder: Path, tag: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _NOTE, json.dumps({"url": self.url, "tag": tag}))


def _files(folder: Path) -> dict[str, Path]:
    """Return what counts of a folder: what is hidden is a lock, or half written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = path
    return found


def _stage(path: Path, target: Path) -> None:
    """Make what does not change while it is read: a link, or a copy of what is written into."""
    if path.suffix in _REPLACED:
        os.link(path, target)
    else:
        shutil.copy2(path, target)


def _is_outside(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or not path.parts
