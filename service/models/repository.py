"""The model repository, in Triton's layout: versions are immutable, one file says which serves.

<model>/<version>/model.onnx     whole or not there
<model>/<version>/labels.txt     one label a line, in the order of the output
<model>/<version>/release.json   what was measured before it was released; no server reads it
<model>/<version>/SHA256SUMS     of all of them; `sha256sum -c SHA256SUMS` reads it as well
<model>/config.pbtxt             names the serving version, and those before; replaced atomically
<model>/history.jsonl            what was released, refused and gone back from, and why
"""

import fcntl
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import (
    ConflictError,
    InvalidArgumentError,
    ModelContractError,
    NotFoundError,
    ServiceError,
)
from service.files import file_state, replace, write
from service.models import checksums, history
from service.models.triton_config import before_in, config_text, max_batch_in, serving_in
from storage import sync

logger = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ModelRepository:
    """A model repository on a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> list[str]:
        """Return the names of the models that have a serving version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.parent.name
            for path in self.root.glob("*/config.pbtxt")
            if MODEL_NAME.fullmatch(path.parent.name)
        )

    def versions(self, model: str) -> list[int]:
        """Return the versions that exist, oldest first."""
        folder = self._folder(model)
        if not folder.is_dir():
            return []
        return sorted(
            int(path.name)
            for path in folder.iterdir()
            if VERSION.fullmatch(path.name) and (path / "model.onnx").is_file()
        )

    def serving(self, model: str) -> int:
        """Return the version that serves.

        Raises:
            NotFoundError: There is no such model.
            ModelContractError: Its config.pbtxt names no version, or one that is not there.
        """
        config = self._folder(model) / "config.pbtxt"
        try:
            version = serving_in(config.read_text("utf-8"))
        except FileNotFoundError:
            raise NotFoundError(
                f"no model {model!r} in {self.root}; there is {', '.join(self.models()) or 'none'}"
            ) from None
        except ValueError as error:
            raise ModelContractError(f"{config} is damaged: {error}") from error
        if version is None:
            raise ModelContractError(f"{config} names no serving version")
        if version not in self.versions(model):
            raise ModelContractError(f"{config} names version {version}, which is not there")
        return version

    def fallbacks(self, model: str) -> list[int]:
        """Return the versions to try when the serving one is unsound, the best first.

        Those that served before come first, the latest of them foremost; then the others, the
        newest first. With a config.pbtxt that cannot be read, that is simply the newest first.
        """
        versions = self.versions(model)[::-1]
        try:
            ranked = self._before(model)[::-1]
        except (OSError, ValueError, ServiceError):
            ranked = []
        return list(dict.fromkeys([*ranked, *versions]))

    def state(self, model: str) -> object:
        """Return a value that changes when config.pbtxt or a file of a version does."""
        folder = self._folder(model)
        files = [path for path in folder.glob("*/*") if VERSION.fullmatch(path.parent.name)]
        return {path: file_state(path) for path in (folder / "config.pbtxt", *files)}

    def path(self, model: str, version: int) -> Path:
        """Return where the ONNX file of a version lies."""
        return self._folder(model) / str(version) / "model.onnx"

    def verify(self, model: str, version: int) -> None:
        """Compare the files of a version with their checksums.

        Raises:
            ModelContractError: They differ, or a file is missing.
        """
        folder = self.path(model, version).parent
        try:
            checksums.verify(folder)
        except FileNotFoundError:
            # A folder that was made by hand, or for Triton, has none.
            logger.warning("%s has no %s: its files are not checked", folder, checksums.MANIFEST)

    def verify_labels(self, model: str, version: int, labels: Sequence[str]) -> None:
        """Compare labels.txt, which Triton reads, with the labels that the model file declares.

        Raises:
            ModelContractError: They differ.
        """
        path = self.path(model, version).with_name("labels.txt")
        if path.is_file() and path.read_text("utf-8") != _lines(labels):
            raise ModelContractError(f"{path} has other labels than the model file beside it")

    def history(self, model: str) -> list[dict[str, Any]]:
        """Return what happened to a model, oldest first; see `service/models/history.py`.

        Each line has `time` and `event` (released, kept, rolled back), most `version`, `replaced`
        and `reason`.

        Raises:
            ModelContractError: The file is damaged.
        """
        folder = self._folder(model)
        if folder.is_dir():
            with self._changing(model):
                pass  # entering settles what a kill left
        return history.read(folder)

    def note(self, model: str, event: str, record: Mapping[str, Any]) -> None:
        """Add a line to the history about something that changed nothing, such as a refusal.

        Raises:
            ServiceError: The repository cannot be written.
        """
        with self._changing(model, create=True):
            history.add(self._folder(model), event, record)

    def publish(
        self,
        model: str,
        onnx: Path,
        *,
        max_batch: int = 64,
        keep: int = 5,
        record: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        instead_of: int | None = -1,
    ) -> int:
        """Copy a file in as the next version, make it serve, and return its number.

        A kill at any moment leaves the old version serving, or the new one; never half of it.

        Args:
            model: Its name.
            onnx: The file.
            max_batch: What config.pbtxt tells Triton.
            keep: Versions to keep.
            record: What the history says of it, beside the time and the versions.
            files: Name → text of what else belongs to the version, such as release.json.
            instead_of: The version that must be serving, None for none; -1 for whichever.

        Raises:
            InvalidArgumentError: The name is not one.
            ConflictError: Another version than `instead_of` serves by now.
            ModelContractError: The file breaks docs/reference/model-contract.md.
            ServiceError: The repository cannot be written.
        """
        from service.models.model import Model

        folder = self._folder(model)
        # Refused before anything is written.
        Model(onnx, device="cpu")
        with self._changing(model, create=True):
            replaced = self._serving_or_none(model)
            if instead_of not in (-1, replaced):
                raise ConflictError(
                    f"version {replaced} of {model!r} began to serve meanwhile, in the place of"
                    f" {instead_of}; release again, to be measured against it"
                )
            for left in folder.glob(".tmp-*"):
                # What a killed publisher left.
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            versions = self.versions(model)
            # A folder that somebody emptied keeps its number.
            numbers = [int(p.name) for p in folder.iterdir() if VERSION.fullmatch(p.name)]
            version = max([*numbers, _last(folder)]) + 1
            replace(folder / ".last", f"{version}\n")
            new = folder / f".tmp-{version}"
            new.mkdir()
            try:
                shutil.copyfile(onnx, new / "model.onnx")
                # The copy lies alone: weights in a second file would be missed now, not later.
                labels = Model(new / "model.onnx", device="cpu").metadata.labels
                write(new / "labels.txt", _lines(labels))
                sync(new / "model.onnx")
                for name, text in (files or {}).items():
                    write(new / name, text)
                checksums.seal(new)
                sync(new)
            except BaseException:
                shutil.rmtree(new)
                raise
            new.rename(folder / str(version))
            sync(folder)
            before = self._served(model)
            told = {"version": version, "replaced": replaced, **(record or {})}
            history.begin(folder, "released", told)
            self._make_serve(model, version, max_batch, before)
            history.finish(folder, version)
            # A rollback must find what served before, be it the newest of the others or not.
            ranked = list(dict.fromkeys([version, *reversed(before), *reversed(versions)]))
            for old in ranked[keep:]:
                # Out of sight at once: a kill leaves no half version.
                gone = folder / f".tmp-{old}"
                (folder / str(old)).rename(gone)
                shutil.rmtree(gone)
        return version

    def rollback(self, model: str, *, reason: str = "") -> int:
        """Make the version serve that served before the serving one, and return its number.

        That is not always the next lower one: a version that was gone back from is skipped.
        `reason` is kept in the history.

        Raises:
            NotFoundError: There is no such model, or no version before.
            ServiceError: The repository cannot be written.
        """
        self.serving(model)  # a model that is not there is refused, and no folder is made for it
        with self._changing(model):
            serving = self.serving(model)
            before = self._before(model)
            if not before:
                raise NotFoundError(
                    f"model {model!r} has no version before {serving}, which serves on"
                )
            version = before.pop()
            config = (self._folder(model) / "config.pbtxt").read_text("utf-8")
            told = {"version": version, "replaced": serving, "reason": reason}
            history.begin(self._folder(model), "rolled back", told)
            self._make_serve(model, version, max_batch_in(config), before)
            history.finish(self._folder(model), version)
        return version

    def _serving_or_none(self, model: str) -> int | None:
        try:
            return self.serving(model)
        except (NotFoundError, ModelContractError):
            return None

    def _before(self, model: str) -> list[int]:
        """Return the versions that served before the serving one and are still there."""
        versions = self.versions(model)
        config = (self._folder(model) / "config.pbtxt").read_text("utf-8")
        noted = before_in(config)
        if noted is None:  # written by another hand
            serving = self.serving(model)
            return [version for version in versions if version < serving]
        return [version for version in noted if version in versions]

    def _served(self, model: str) -> list[int]:
        """Return what serves, and before it what served before; nothing for a new model."""
        try:
            return [*self._before(model), self.serving(model)]
        except (FileNotFoundError, NotFoundError, ModelContractError):
            return []

    def _make_serve(self, model: str, version: int, max_batch: int, before: list[int]) -> None:
        from service.models.model import Model

        folder = self._folder(model)
        metadata = Model(self.path(model, version), device="cpu").metadata
        text = config_text(
            model, version, image_size=metadata.image_size, classes=len(metadata.labels),
            max_batch=max_batch, before=before,
        )  # fmt: skip
        replace(folder / "config.pbtxt", text)

    @contextmanager
    def _changing(self, model: str, *, create: bool = False) -> Iterator[None]:
        """Let in one after another; the system frees the lock of a process that was killed."""
        folder = self._folder(model)
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                history.finish(folder, self._serving_or_none(model))
                yield
        except OSError as error:
            raise ServiceError(f"cannot change the model repository {folder}: {error}") from error

    def _folder(self, model: str) -> Path:
        # A name is never a path.
        if not MODEL_NAME.fullmatch(model):
            raise InvalidArgumentError(
                f"{model!r} is no model name: letters, digits, '_', '.' and '-', up to 128"
            )
        return self.root / model


def _lines(labels: Sequence[str]) -> str:
    return "".join(f"{label}\n" for label in labels)


def _last(folder: Path) -> int:
    """Return the highest number ever given out: a number is never used twice."""
    try:
        return int((folder / ".last").read_text())
    except (FileNotFoundError, ValueError):
        return 0
