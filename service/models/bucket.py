"""A model repository in a bucket: `s3://bucket/prefix`, where nothing can be renamed.

<model>/<version>/.claimed       who took the number; written first, and by one publisher only
<model>/<version>/…              the files
<model>/<version>/SHA256SUMS     the checksums, written last: a version without them does not count
<model>/config.pbtxt             names the version that serves; replaced only if nobody else did

    bucket ── pull ─► a folder in the usual layout ─► server, release, rollback
    bucket ◄─ push ── the same folder, changed

A pull brings complete versions and then config.pbtxt, so the folder is a valid model repository at
every moment. If a pull fails, the next one goes on, and the old version serves meanwhile.
Credentials and the endpoint come from the environment, as boto3 reads them (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …).
"""

import errno
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import ConflictError, ModelContractError, NotFoundError, UnavailableError
from service.models import triton_config
from service.models.checksums import MANIFEST, is_whole
from service.models.repository import MODEL_NAME, ModelRepository
from service.models.triton_config import CONFIG
from service.models.versions import CLAIM, VERSION, complete_in, of_version
from service.pb import inference_pb2 as pb
from storage import Bucket, StorageError, TakenError, replacing, sync

logger = logging.getLogger(__name__)

_HISTORY = "history.jsonl"
_TRIES = 3


@dataclass(kw_only=True, slots=True)
class _Pulled:
    """What the bucket had of a model when the folder was filled."""

    tag: str | None = None
    """Tag of config.pbtxt, which changes when it is replaced."""
    config: bytes = b""
    versions: set[int] = field(default_factory=set)
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of all its files."""


class BucketRepository:
    """A model repository in a bucket, and its copy in a folder. For one thread at a time."""

    def __init__(self, url: str, folder: Path) -> None:
        """Prepare the connection, which opens at the first use.

        The folder is empty, or was filled by an earlier pull.

        Raises:
            UnavailableError: s3fs is not installed.
        """
        try:
            # Nothing is tried again here: the next poll does, or the person who released.
            self._bucket = Bucket(url.rstrip("/"), pauses_s=())
        except StorageError as error:
            raise UnavailableError(str(error)) from error
        self.url = url
        self.folder = folder
        self._pulled: dict[str, _Pulled] = {}

    def pull(self, *, most: int = 0) -> None:
        """Bring the folder up to date.

        Args:
            most: How many versions of each model are needed, the serving one and those that served
                before it; 0: all.

        Raises:
            NotFoundError: There is no such bucket.
            UnavailableError: It, or a model of it, cannot be read completely. The folder is still a
                valid repository, with all other models.
        """
        with self._errors("read"):
            tags = self._bucket.tags()
        errors = []
        for model in _models(tags):
            try:
                with self._errors("read"):
                    self._pull_model(model, tags, most)
            except (NotFoundError, UnavailableError) as error:
                errors.append(error)
        for model in self._pulled.keys() - _models(tags):
            # Removed there: whoever serves it from the folder can tell by its configuration.
            (self.folder / model / CONFIG).unlink(missing_ok=True)
            del self._pulled[model]
        if errors:
            raise errors[0]

    def serving(self) -> dict[str, int]:
        """Return model → the version that serves, as config.pbtxt names it.

        Raises:
            NotFoundError: There is no such bucket.
            UnavailableError: It cannot be read.
        """
        found = {}
        with self._errors("read"):
            for model in _models(self._bucket.tags()):
                text = self._bucket.read(f"{model}/{CONFIG}")
                found[model] = triton_config.serving_version(self._config(model, text or b""))
        return {model: version for model, version in found.items() if version}

    def pull_version(self, model: str, version: int) -> None:
        """Bring one version into the folder, and nothing else.

        Raises:
            NotFoundError: There is no such version, or it is not complete.
            UnavailableError: It cannot be read.
        """
        with self._errors("read"):
            names = complete_in(model, self._bucket.tags()).get(version)
            if names is None:
                raise NotFoundError(f"{self.url} has no version {version} of model {model!r}")
            (self.folder / model).mkdir(parents=True, exist_ok=True)
            self._fetch(model, version, names)

    def push(self) -> None:
        """Bring the bucket up to date with the folder, which a pull began.

        Raises:
            ConflictError: Another release came first; the bucket serves what that one says.
            UnavailableError: It cannot be written; the old version serves, or the new one.
        """
        with self._errors("written"):
            for model in ModelRepository(self.folder).models():
                self._push_model(model, self._pulled.get(model, _Pulled()))

    def _pull_model(self, model: str, tags: Mapping[str, str], most: int) -> None:
        pulled = self._pulled.get(model, _Pulled())
        # All of them: a file of a version may arrive, or be repaired, after config.pbtxt.
        of_model = {name: tag for name, tag in tags.items() if name.startswith(f"{model}/")}
        if pulled.tags == of_model:
            return
        while True:
            found = self._bucket.tagged(f"{model}/{CONFIG}")
            if found is None:  # removed since it was listed
                return
            text, tag = found
            if of_model.get(f"{model}/{CONFIG}") == tag:
                break
            # Replaced since it was listed: the version that it names may be newer than the list.
            of_model = self._bucket.tags(model)
        folder = self.folder / model
        folder.mkdir(parents=True, exist_ok=True)
        complete = complete_in(model, of_model)
        config = self._config(model, text)
        serving = triton_config.serving_version(config)
        ranked = [serving, *reversed(triton_config.served_before(config) or [])]
        wanted, whole = [], 0
        for version in dict.fromkeys([*ranked, *sorted(complete, reverse=True)]):
            # A damaged version is there to be refused; the one before it must be there to serve.
            if version in complete and (whole < most or not most):
                wanted.append(version)
                whole += self._fetch(model, version, complete[version])
        history = self._bucket.read(f"{model}/{_HISTORY}") or b""
        if history:
            _replace(folder / _HISTORY, history)
        # A number that somebody claimed is never used again.
        numbers = [0, *(int(name.split("/")[1]) for name in of_model if of_version(model, name))]
        _replace(folder / ".last", b"%d\n" % max(numbers))
        _replace(folder / CONFIG, text)
        self._pulled[model] = _Pulled(tag=tag, config=text, versions=set(complete), tags=of_model)
        for path in list(folder.iterdir()) if most else ():
            if VERSION.fullmatch(path.name) and int(path.name) not in wanted:
                removed = path.rename(folder / f".tmp-{path.name}")
                shutil.rmtree(removed)

    def _config(self, model: str, text: bytes) -> pb.ModelConfig:
        """Return a model's configuration; an empty one if the text is not valid.

        Whoever loads the model from the copy then reports the error, and other models are not
        affected.
        """
        try:
            return triton_config.parse(text, f"{self.url}/{model}/{CONFIG}", ignore_unknown=True)
        except ModelContractError:
            return pb.ModelConfig()

    def _fetch(self, model: str, version: int, names: list[str]) -> bool:
        """Bring a version into the folder; return whether it is whole."""
        target = self.folder / model / str(version)
        if target.is_dir():
            if is_whole(target):
                return True
            # Another tool replaced the files of a number that we have.
            shutil.rmtree(target)
        incoming = self.folder / model / f".tmp-pull-{version}"
        for attempt in range(1, _TRIES + 1):
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
            for name in names:
                self._bucket.get(f"{model}/{version}/{name}", incoming / name)
            if is_whole(incoming):
                break
            # After the last try it is damaged in the bucket: the server will refuse it.
            logger.warning("%s/%s/%s is damaged, try %d", self.url, model, version, attempt)
        for name in names:
            sync(incoming / name)
        incoming.rename(target)
        sync(target.parent)
        return is_whole(target)

    def _push_model(self, model: str, pulled: _Pulled) -> None:
        folder = self.folder / model
        versions = set(ModelRepository(self.folder).versions(model))
        for version in sorted(versions - pulled.versions):
            self._push_version(model, version)
        history = folder / _HISTORY
        lines = history.read_bytes().splitlines(keepends=True) if history.is_file() else []
        config = (folder / CONFIG).read_bytes()
        if config != pulled.config:
            # Of the changes before this one, also those whose publishers were killed.
            own = triton_config.line(self._config(model, config))
            self._append(f"{model}/{_HISTORY}", [each for each in lines if json.loads(each) != own])
            try:
                self._bucket.replace(f"{model}/{CONFIG}", config, pulled.tag)
            except TakenError as error:
                raise self._conflict(f"{model}/{CONFIG}") from error
        self._append(f"{model}/{_HISTORY}", lines)
        for version in pulled.versions - versions:
            names = self._bucket.names(f"{model}/{version}")
            # The checksums first: without them a version does not count, if a kill leaves the rest.
            for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):
                if not name.endswith(CLAIM):
                    self._bucket.remove(name)

    def _push_version(self, model: str, version: int) -> None:
        folder = self.folder / model / str(version)
        claim = f"{model}/{version}/{CLAIM}"
        if not self._bucket.create(claim, uuid.uuid4().hex.encode()):
            raise self._conflict(claim)
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        for name in [each for each in names if each != MANIFEST] + [MANIFEST]:
            self._bucket.put(f"{model}/{version}/{name}", folder / name)

    def _append(self, name: str, lines: Sequence[bytes]) -> None:
        """Add the lines that are not there, behind those that others added."""
        while True:
            there, tag = self._bucket.tagged(name) or (b"", None)
            known = set(there.splitlines(keepends=True))
            added = [line for line in lines if line not in known]
            if not added:
                return
            with suppress(TakenError):
                self._bucket.replace(name, there + b"".join(added), tag)

    def _conflict(self, name: str) -> ConflictError:
        return ConflictError(
            f"{self.url}: another release came first ({name}); release again, to be"
            " measured against it"
        )

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """Raise errors of the bucket, and of the folder's disk, as errors of the service."""
        try:
            yield
        except (StorageError, OSError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, FileNotFoundError) and done == "read":
                raise NotFoundError(f"{self.url}: {cause}") from error
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UnavailableError(self._no_room(cause)) from error
            raise UnavailableError(f"{self.url} cannot be {done}: {cause}") from error

    def _no_room(self, error: OSError) -> str:
        """Say what the copy's disk lacks."""
        with suppress(StorageError, OSError):
            return (
                f"a copy of {self.url} has no room in {self.folder}: {error.strerror}; all of it"
                f" takes {-(-self._bucket.size() // 2**20)} MiB. Free some space, or let TMPDIR"
                " name a folder with room"
            )
        return f"a copy of {self.url} has no room in {self.folder}: {error.strerror}"


def _replace(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _models(tags: Mapping[str, str]) -> list[str]:
    """Return the models that have a config.pbtxt, sorted."""
    found = [name.removesuffix(f"/{CONFIG}") for name in tags if name.endswith(f"/{CONFIG}")]
    return sorted(name for name in found if MODEL_NAME.fullmatch(name))
