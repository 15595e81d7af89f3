"""Photos that lie in a bucket: this machine learns from a copy, and fetches only what is new.

s3://bucket/photos ─► pages of the listing ─► index ─► what is gone leaves, what is new is fetched
work/.photos/photos-1a2b3c4d5e6f/photos           the copy, an ordinary folder of photos
work/.photos/photos-1a2b3c4d5e6f/index.sqlite     of each photo: ETag, bytes, SHA-256, time

The index lies on the disk, so that a listing of any size takes the memory of a page.
"""

import errno
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from photo_folder.names import kind_of, passed_over, printable
from photo_folder.reading import reason
from service.pixels.preprocessing import MAX_BYTES
from storage import Bucket, Listed, StorageError, bucket_url, replacing
from terminal import say
from training.buckets.mirror import local_path, locked

_AT_ONCE = 16
"""Photos that are fetched at a time: a store answers each after a while, and many together."""

_BATCH = 256
"""Photos between two commits of the index: what a kill fetches again, at most."""

_NAME_BYTES = 100
"""Of the prefix's last name in the copy's."""

_KEY_DIGITS = 12
"""Of the URL's hash in the copy's name."""

_ODD_PATH = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ})
"""Errors of names that are keys and no paths, such as `a.jpg` beside `a.jpg/b.jpg`."""

_TABLES = """
CREATE TABLE IF NOT EXISTS kept (
    name TEXT PRIMARY KEY, num_bytes INT, tag TEXT, digest TEXT, mtime_ns INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listed (
    name TEXT PRIMARY KEY, num_bytes INT, tag TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wanted (
    name TEXT PRIMARY KEY, num_bytes INT) WITHOUT ROWID;
"""


class _Kept(NamedTuple):
    """What the index says of a photo in the copy."""

    num_bytes: int
    tag: str
    digest: str
    mtime_ns: int


def fetched(data: Path) -> Path:
    """Return a folder of photos: of a bucket's, the copy here, brought up to date; else `data`.

    Afterwards the copy has what the bucket had, and nothing else. A file that changed here is told
    by its time and SHA-256, and is fetched again. One that stays the same is not written.

    Raises:
        StorageError: The bucket cannot be read, it has no photo there, or the copy has no room.
    """
    url = bucket_url(data)
    if url is None:
        return data
    folder = place_of(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index = folder.parent / "index.sqlite"
        with locked(folder, wait=True), closing(sqlite3.connect(index)) as db:
            db.executescript(_TABLES)
            _Copy(Bucket(url), folder, db).update()
    except OSError as error:
        raise StorageError(
            f"the copy of {url} cannot be kept in {folder} ({reason(error)}); let HANSANG_WORK name"
            " another folder"
        ) from error
    except sqlite3.Error as error:
        raise StorageError(
            f"{folder.parent}/index.sqlite: {error}; remove {folder.parent}, and all photos are"
            " fetched again"
        ) from error
    return folder


def home() -> Path:
    """Return the folder of all copies of photos on this machine.

    No bucket is called `.photos`, so that no run's copy lies there.
    """
    return local_path(Path("s3://.photos"))


def place_of(url: str) -> Path:
    """Return where the copy of the photos below a URL lies, or would lie."""
    title = os.fsencode(url.rpartition("/")[2])[:_NAME_BYTES].decode(errors="ignore")
    key = hashlib.sha256(url.encode()).hexdigest()[:_KEY_DIGITS]
    return home() / f"{title}-{key}" / title


def last_used() -> Iterator[tuple[Path, float]]:
    """Yield each copy that is here, and when it was last compared with its bucket, in Unix seconds.

    Whoever compares it holds it `locked`.
    """
    for index in sorted(home().glob("[!.]*/index.sqlite")):
        title = index.parent.name[: -_KEY_DIGITS - 1]
        yield index.parent / title, index.stat().st_mtime


class _Copy:
    """A bucket's photos, their copy and its index; one process at a time."""

    def __init__(self, bucket: Bucket, folder: Path, db: sqlite3.Connection) -> None:
        self._bucket = bucket
        self._folder = folder
        self._db = db
        self._left: list[str] = []

    def update(self) -> None:
        self._list()
        self._remove_others(self._folder, "")
        self._compare()
        count, num_bytes = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(num_bytes), 0) FROM wanted"
        ).fetchone()
        if count:
            self._require_room(num_bytes)
            say(
                f"{self._bucket.url}: {count} files are new ({_mib(num_bytes)}), and fetched into"
                f" {self._folder}"
            )
            self._fetch()
        if self._left:
            more = f" and {len(self._left) - 3} more" if len(self._left) > 3 else ""
            say(f"warning: not fetched: {'; '.join(self._left[:3])}{more}")

    def _list(self) -> None:
        """Write down what is in the bucket, by names that can be paths here."""
        with self._db:
            self._db.execute("DELETE FROM listed")
            for page in self._bucket.pages():
                self._db.executemany("INSERT OR IGNORE INTO listed VALUES (?, ?, ?)",
                                     filter(None, map(self._taken, page)))  # fmt: skip
        if self._db.execute("SELECT 1 FROM listed").fetchone() is None:
            raise StorageError(f"{self._bucket.url} has no photos; give a prefix that has some")

    def _taken(self, listed: Listed) -> Listed | None:
        """Return what to copy of a file; None if it is passed over or cannot be here."""
        parts = listed.name.split("/")
        if not {"", ".", ".."}.isdisjoint(parts) or "\0" in listed.name:
            self._left.append(f"{printable(listed.name) or 'a file of that name'} is no path")
            return None
        if any(map(passed_over, parts)):
            return None
        if kind_of(parts[-1]) is not None:
            # An empty file of its name, so that the same is said of it as in a folder.
            return Listed(listed.name, 0, "")
        if listed.num_bytes > MAX_BYTES:
            self._left.append(
                f"{printable(listed.name)} has {listed.num_bytes} bytes, and at most {MAX_BYTES}"
                " are accepted"
            )
            return None
        return listed

    def _remove_others(self, folder: Path, below: str) -> bool:
        """Remove what the bucket does not have; return whether nothing is left of the folder."""
        empty = True
        with os.scandir(folder) as entries:
            for entry in entries:
                name = below + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if self._remove_others(Path(entry.path), f"{name}/"):
                        Path(entry.path).rmdir()
                    else:
                        empty = False
                elif self._is_listed(name):
                    empty = False
                else:
                    Path(entry.path).unlink()
        return empty

    def _is_listed(self, name: str) -> bool:
        with suppress(UnicodeEncodeError):  # no key is a name that is no UTF-8
            found = self._db.execute("SELECT 1 FROM listed WHERE name = ?", (name,))
            return found.fetchone() is not None
        return False

    def _compare(self) -> None:
        """Write down which photos are new, or are no longer here what was fetched."""
        with self._db:
            self._db.execute("DELETE FROM wanted")
            self._db.execute("DELETE FROM kept WHERE name NOT IN (SELECT name FROM listed)")
            rows = self._db.execute(
                "SELECT name, listed.num_bytes, listed.tag, kept.num_bytes, kept.tag, kept.digest,"
                " kept.mtime_ns FROM listed LEFT JOIN kept USING (name)"
            )
            for name, num_bytes, tag, *of_kept in rows:
                kept = _Kept(*of_kept)
                if kept[:2] != (num_bytes, tag) or not self._is_whole(name, kept):
                    self._db.execute("INSERT INTO wanted VALUES (?, ?)", (name, num_bytes))

    def _is_whole(self, name: str, kept: _Kept) -> bool:
        """Return whether a file is what was fetched; it is read only if its time differs."""
        path = self._folder / name
        try:
            about = path.lstat()
            if (about.st_size, about.st_mtime_ns) == (kept.num_bytes, kept.mtime_ns):
                return True
            return about.st_size == kept.num_bytes and _digest(path) == kept.digest
        except OSError:
            return False

    def _require_room(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < num_bytes:
            raise StorageError(
                f"the new photos of {self._bucket.url} need {_mib(num_bytes)} in {self._folder},"
                f" which has {_mib(free)} left; free some space, or let HANSANG_WORK name a folder"
                " with room"
            )

    def _fetch(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, "fetch") as pool:
            for names in self._batches():
                kept = dict(zip(names, pool.map(self._fetch_one, names), strict=True))
                with self._db:
                    self._db.executemany(
                        "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)",
                        [(name, *each) for name, each in kept.items() if each is not None],
                    )

    def _batches(self) -> Iterator[list[str]]:
        rows = self._db.execute("SELECT name FROM wanted ORDER BY name")
        while batch := rows.fetchmany(_BATCH):
            yield [name for (name,) in batch]

    def _fetch_one(self, name: str) -> _Kept | None:
        """Bring one file; return what it is, None if it is gone meanwhile or cannot be here."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                tag = self._content(name, new)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return None
        except OSError as error:
            if error.errno not in _ODD_PATH:
                raise
            self._left.append(f"{printable(name)} is no path here ({reason(error)})")
            return None
        about = path.lstat()
        return _Kept(about.st_size, tag, _digest(path), about.st_mtime_ns)

    def _content(self, name: str, path: Path) -> str:
        """Write a file's content; return its tag.

        Raises:
            FileNotFoundError: It was removed since it was listed.
        """
        if kind_of(name.rpartition("/")[2]) is not None:
            path.touch()
            return ""
        tag = self._bucket.fetch(name, path)
        if tag is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return tag


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes // 2**20)} MiB"
