"""One run or cache in a bucket, and its copy on this machine: always a complete state in both.

s3://bucket/runs/first/manifest.json    names of the files, and their SHA-256; written last
s3://bucket/runs/first/<SHA-256>/<name> the files; none is ever replaced

A machine replaces the manifest only if it is still the one that this machine saw last. So a process
that is killed at any moment leaves a complete state, and if two machines continue one run, one of
them is stopped.
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
"""Files that are replaced as a whole, never written into, so a hard link keeps their content."""


class Mirror:
    """A folder in a bucket and its copy on this machine, for one thread at a time."""

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
        """Bring the copy up to date with the bucket; return whether there is a copy now.

        A copy that is ahead of the bucket, from the same manifest, is left as it is.

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
                # A file was removed since the manifest was read, so a newer manifest is there.
                if not further or not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return True

    def is_there(self) -> bool:
        """Return whether the bucket has a manifest, and so a complete state."""
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
        """Bring the bucket up to date with the copy.

        Raises:
            StorageError: The bucket cannot be written, or the copy cannot be read. The bucket has
                its old state or the new one.
            TakenError: Another machine pushed meanwhile; the bucket has that machine's state.
        """
        staged = self.copy / ".mirror"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            there = self._bucket.names()
            # Found by their hash: the best checkpoint may be the last one under another name.
            known = {place.split("/")[0]: place for place in there if _PLACE.fullmatch(place)}
            files: dict[str, str] = {}
            for name, path in _files(self.copy).items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    _stage(path, staged / name)
                except FileNotFoundError:
                    continue  # a checkpoint that was pruned since it was listed
                digest = self._hash(staged / name)
                if digest not in known:
                    known[digest] = f"{digest}/{path.name}"
                    self._bucket.put(known[digest], staged / name)
                files[name] = known[digest]
            told = {"format": _FORMAT, "files": files}
            text = json.dumps(told, ensure_ascii=False, indent=1, sort_keys=True)
            tag = self._bucket.replace(_MANIFEST, text.encode(), self._tag())
            self._note(self.copy, tag)
            # Files of the state before, and of killed pushes: no manifest names them any more.
            for left in sorted({*there} - {*files.values()}):
                if _PLACE.fullmatch(left):  # other files in the folder stay
                    self._bucket.remove(left)
        except OSError as error:
            raise StorageError(f"{self.copy}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def follow(self, ended: threading.Event, lost: Callable[[], object]) -> None:
        """Push changes until `ended` is set; if another machine pushed meanwhile, call `lost`."""
        # Nothing is known of the first state: the copy may be ahead of the bucket.
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
                # Work continues: the copy is complete, and the next turn tries again.
                if str(error) != failure:
                    say(f"warning: not pushed yet: {error}")
                failure = str(error)

    def finish(self) -> None:
        """Push the last changes.

        Raises:
            StorageError: The bucket cannot be written; the copy is complete.
            RunError: Another machine has continued the run.
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
        """Return the name, time and size of each file: it differs once any file was written."""
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
        # By inode, not by name: a hard link is the same file.
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def _tag(self) -> str | None:
        """Return the tag of the manifest that the copy comes from; None if it began here."""
        try:
            note: dict[str, str] = json.loads((self.copy / _NOTE).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return note.get("tag") if note.get("url") == self.url else None

    def _note(self, folder: Path, tag: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _NOTE, json.dumps({"url": self.url, "tag": tag}))


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by name, without hidden ones: locks, and files half written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = path
    return found


def _stage(path: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a copy if the file may be written into meanwhile."""
    if path.suffix in _REPLACED:
        os.link(path, target)
    else:
        shutil.copy2(path, target)


def _is_outside(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or not path.parts
