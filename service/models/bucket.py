"""A model repository in a bucket: `s3://bucket/prefix`, where nothing can be renamed.

<model>/<version>/.claimed       who took the number; written first, by one publisher alone
<model>/<version>/…              the files
<model>/<version>/SHA256SUMS     the manifest, written last: a version counts when it is there
<model>/config.pbtxt             names the version that serves; replaced only if it is still the old

    bucket ── pull ─► a folder in the usual layout ─► server, release, rollback
    bucket ◄─ push ── the same folder, changed

A pull brings whole versions and then config.pbtxt, so that the folder is at every moment a model
repository. What fails or is cut short is left for the next pull, and the old version serves on.
Credentials and the endpoint come from the environment, as boto3 reads them (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …).
"""

import asyncio
import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import ConflictError, ModelContractError, NotFoundError, UnavailableError
from service.files import replace
from service.models.checksums import MANIFEST, verify
from service.models.repository import MODEL_NAME, VERSION, ModelRepository
from service.models.triton_config import before_in, serving_in
from service.observability.metrics import Metrics
from storage import StorageError, bucket_url, file_system, sync, was_refused

logger = logging.getLogger(__name__)

_CLAIM = ".claimed"
_CONFIG = "config.pbtxt"
_HISTORY = "history.jsonl"
_TRIES = 3
_Listing = dict[str, dict[str, Any]]
"""Name below the repository → what the bucket says of it."""


class Bucket:
    """A model repository in a bucket, and its copy in a folder. Used by one thread at a time."""

    def __init__(self, url: str, folder: Path) -> None:
        """Connect at the first use; the folder is empty, or what a pull left.

        Raises:
            UnavailableError: s3fs is not installed.
        """
        try:
            # What others write must be seen, and a server that is away must be noticed.
            self._s3 = file_system()
        except StorageError as error:
            raise UnavailableError(str(error)) from error
        self.url = url
        self.folder = folder
        self._root = url.removeprefix("s3://").rstrip("/")
        self._configs: dict[str, str] = {}
        self._pulled: dict[str, set[int]] = {}

    def pull(self, *, most: int = 0) -> None:
        """Bring the folder to what the bucket says.

        Args:
            most: Versions of each model that are wanted, the serving one and those that served
                before it; 0 for all.

        Raises:
            NotFoundError: There is no such bucket.
            UnavailableError: It cannot be read, or only in part; the folder is whole all the same.
        """
        try:
            listing = self._listing()
            models = sorted(
                name.split("/")[0] for name in listing if re.fullmatch(r"[^/]+/config\.pbtxt", name)
            )
            for model in models:
                if MODEL_NAME.fullmatch(model):
                    self._pull_model(model, listing, most)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.url}: {error}") from error
        except Exception as error:  # botocore, aiohttp and s3fs have no common base
            raise UnavailableError(f"{self.url} cannot be read: {error}") from error

    def serving(self) -> dict[str, int]:
        """Return the version that serves of each model, as config.pbtxt names it.

        Raises:
            UnavailableError: It cannot be read.
        """
        try:
            configs = [
                each for each in self._listing() if re.fullmatch(r"[^/]+/config\.pbtxt", each)
            ]
            found = {each.split("/")[0]: serving_in(self._read(each)) for each in configs}
        except Exception as error:  # botocore, aiohttp and s3fs have no common base
            raise UnavailableError(f"{self.url} cannot be read: {error}") from error
        return {model: serving for model, serving in sorted(found.items()) if serving}

    def pull_version(self, model: str, version: int) -> None:
        """Bring one version into the folder, and nothing else.

        Raises:
            NotFoundError: It is not there, or not whole.
            UnavailableError: It cannot be read.
        """
        try:
            names = _complete(model, self._listing()).get(version)
            if names is not None:
                (self.folder / model).mkdir(parents=True, exist_ok=True)
                self._fetch(model, version, names)
        except Exception as error:  # botocore, aiohttp and s3fs have no common base
            raise UnavailableError(f"{self.url} cannot be read: {error}") from error
        if names is None:
            raise NotFoundError(f"{self.url} has no version {version} of model {model!r}")

    def push(self) -> None:
        """Bring the bucket to what the folder says, which a pull began.

        Raises:
            ConflictError: Another one released in the meantime; the bucket serves what that one
                says.
            UnavailableError: It cannot be written; what serves is the old version, or the new.
        """
        try:
            listing = self._listing()
            for model in ModelRepository(self.folder).models():
                self._push_model(model, listing)
        except ConflictError:
            raise
        except Exception as error:
            raise UnavailableError(f"{self.url} cannot be written: {error}") from error

    def _pull_model(self, model: str, listing: _Listing, most: int) -> None:
        etag = listing[f"{model}/{_CONFIG}"]["ETag"]
        folder = self.folder / model
        if self._configs.get(model) == etag:
            return
        folder.mkdir(parents=True, exist_ok=True)
        config = self._read(f"{model}/{_CONFIG}")
        complete = _complete(model, listing)
        serving = serving_in(config)
        ranked = [serving, *reversed(before_in(config) or [])]
        wanted = [number for number in dict.fromkeys(ranked) if number in complete]
        if serving and serving not in complete:
            # Written in another order than ours, or not seen yet: the next pull will tell.
            raise UnavailableError(f"{model} version {serving} has no {MANIFEST} yet")
        wanted = wanted[:most] if most else sorted(complete)
        for version in wanted:
            self._fetch(model, version, complete[version])
        if f"{model}/{_HISTORY}" in listing:
            replace(folder / _HISTORY, self._read(f"{model}/{_HISTORY}"))
        # A number that somebody claimed is never used again.
        numbers = [0, *(int(each.split("/")[1]) for each in listing if _of_version(model, each))]
        replace(folder / ".last", f"{max(numbers)}\n")
        replace(folder / _CONFIG, config)
        self._configs[model] = etag
        self._pulled[model] = set(complete)
        for path in list(folder.iterdir()) if most else ():
            if VERSION.fullmatch(path.name) and int(path.name) not in wanted:
                gone = path.rename(folder / f".tmp-{path.name}")
                shutil.rmtree(gone)

    def _fetch(self, model: str, version: int, names: list[str]) -> None:
        target = self.folder / model / str(version)
        if target.is_dir():
            if _is_whole(target):
                return
            # Released anew under its old number, which only another hand does.
            shutil.rmtree(target)
        coming = self.folder / model / f".tmp-pull-{version}"
        for attempt in range(1, _TRIES + 1):
            shutil.rmtree(coming, ignore_errors=True)
            coming.mkdir(parents=True)
            for name in names:
                self._s3.get_file(f"{self._root}/{model}/{version}/{name}", str(coming / name))
            if _is_whole(coming):
                break
            # Damaged there, and not on the way: the server refuses it, and says so where it counts.
            logger.warning("%s/%s/%s is damaged, try %d", self.url, model, version, attempt)
        for name in names:
            sync(coming / name)
        coming.rename(target)
        sync(target.parent)

    def _push_model(self, model: str, listing: _Listing) -> None:
        store = ModelRepository(self.folder)
        # What was there when the folder was filled, and not what another one may have put since.
        pulled = self._pulled.get(model, set())
        versions = set(store.versions(model))
        for version in sorted(versions - pulled):
            self._push_version(model, version)
        config = (self.folder / model / _CONFIG).read_text("utf-8")
        there = listing.get(f"{model}/{_CONFIG}")
        if there is None or self._read(f"{model}/{_CONFIG}") != config:
            condition = {"IfMatch": self._configs.get(model, "")} if there else {"IfNoneMatch": "*"}
            self._write_if(f"{model}/{_CONFIG}", config, **condition)
        history = self.folder / model / _HISTORY
        if history.is_file():
            self._s3.pipe_file(f"{self._root}/{model}/{_HISTORY}", history.read_bytes())
        complete = _complete(model, listing)
        for version in (pulled - versions) & complete.keys():
            # Without its manifest it counts no more, wherever a kill leaves the rest.
            names = [MANIFEST, *(each for each in complete[version] if each != MANIFEST)]
            for name in names:
                self._s3.rm_file(f"{self._root}/{model}/{version}/{name}")

    def _push_version(self, model: str, version: int) -> None:
        folder = self.folder / model / str(version)
        self._write_if(f"{model}/{version}/{_CLAIM}", uuid.uuid4().hex, IfNoneMatch="*")
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        for name in [each for each in names if each != MANIFEST] + [MANIFEST]:
            self._s3.put_file(str(folder / name), f"{self._root}/{model}/{version}/{name}")

    def _write_if(self, name: str, text: str, **condition: str) -> None:
        """Write on a condition; a write that succeeded, and whose answer was lost, succeeded."""
        try:
            self._s3.pipe_file(f"{self._root}/{name}", text.encode(), **condition)
        except OSError as error:
            if not was_refused(error):
                raise
            if self._read(name) != text:
                raise ConflictError(
                    f"{self.url}: another release came first ({name}); release again, to be"
                    " measured against it"
                ) from error

    def _read(self, name: str) -> str:
        content: bytes = self._s3.cat_file(f"{self._root}/{name}")
        return content.decode()

    def _listing(self) -> _Listing:
        found = self._s3.find(self._root, detail=True)
        return {path.removeprefix(f"{self._root}/"): info for path, info in found.items()}


async def follow(bucket: Bucket, most: int, interval_s: float, metrics: Metrics) -> None:
    """Pull again and again until cancelled; what cannot be read is read at the next turn."""
    failed = ""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await asyncio.to_thread(bucket.pull, most=most)
            failed = ""
        except Exception as error:
            metrics.pull_failures.inc()
            if str(error) != failed:  # a bucket that is away for an hour is complained of once
                logger.error("what is loaded serves on: %s", error)
            failed = str(error)


@contextmanager
def working_copy(repository: Path) -> Iterator[Path]:
    """Give a folder to change; where the repository is a bucket, what was changed is pushed.

    Raises:
        ConflictError: Another one released in the meantime.
        UnavailableError: The bucket cannot be read or written.
    """
    url = bucket_url(repository)
    if url is None:
        yield repository
        return
    with tempfile.TemporaryDirectory(prefix="hansang-models-") as name:
        bucket = Bucket(url, Path(name))
        bucket.pull()
        yield Path(name)
        bucket.push()


def _of_version(model: str, name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == model and bool(VERSION.fullmatch(parts[1]))


def _complete(model: str, listing: _Listing) -> dict[int, list[str]]:
    """Return the versions that count, each with the names of its files."""
    versions: dict[int, list[str]] = {}
    for each in listing:
        if _of_version(model, each) and not each.endswith(f"/{_CLAIM}"):
            _, version, name = each.split("/")
            versions.setdefault(int(version), []).append(name)
    return {version: names for version, names in versions.items() if MANIFEST in names}


def _is_whole(folder: Path) -> bool:
    """Return whether the files of a version are those of its manifest."""
    try:
        verify(folder)
    except (OSError, ModelContractError):
        return False
    return True
