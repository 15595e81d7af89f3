"""The model repository, in Triton's layout: versions never change, and one file says which serves.

<model>/<version>/model.onnx     complete or absent
<model>/<version>/labels.txt     one label a line, in the order of the output
<model>/<version>/release.json   what was measured before the release; no server reads it
<model>/<version>/SHA256SUMS     checksums of these files, in the format of `sha256sum -c`
<model>/config.pbtxt             names the version that serves; replaced atomically
<model>/history.jsonl            what was released, refused and rolled back, and why
"""

import logging
import re
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
from service.files import file_state, locked, replace
from service.models import checksums, history, triton_config, versions
from service.models.triton_config import CONFIG
from service.pb import inference_pb2 as pb

logger = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class ModelRepository:
    """A model repository on a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> list[str]:
        """Return the names of the models that have a serving version, sorted."""
        return sorted(
            path.parent.name
            for path in self.root.glob(f"*/{CONFIG}")
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
            if versions.VERSION.fullmatch(path.name) and (path / "model.onnx").is_file()
        )

    def serving(self, model: str) -> int:
        """Return the version that serves.

        Raises:
            NotFoundError: There is no such model.
            ModelContractError: Its config.pbtxt cannot be read, or does not name one version that
                is there.
        """
        path = self._folder(model) / CONFIG
        config = self._config(model, ignore_unknown=True)
        if config is None:
            raise NotFoundError(
                f"no model {model!r} in {self.root}; there is {', '.join(self.models()) or 'none'}"
            )
        version = triton_config.serving_version(config)
        if version is None:
            raise ModelContractError(f"{path} names no serving version")
        if version not in self.versions(model):
            raise ModelContractError(f"{path} names version {version}, which is not there")
        return version

    def fallbacks(self, model: str) -> list[int]:
        """Return the versions to try if the serving one fails: those before it, then the newest."""
        try:
            ranked = self._before(model)[::-1]
        except (OSError, ServiceError):
            ranked = []
        return list(dict.fromkeys([*ranked, *self.versions(model)[::-1]]))

    def state(self, model: str) -> object:
        """Return a value that changes when config.pbtxt or a file of a version does."""
        folder = self._folder(model)
        files = [
            path for path in folder.glob("*/*") if versions.VERSION.fullmatch(path.parent.name)
        ]
        return {path: file_state(path) for path in (folder / CONFIG, *files)}

    def path(self, model: str, version: int) -> Path:
        """Return the path of a version's ONNX file, whether or not there is one."""
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
            # A folder that was made by hand or for Triton has none.
            logger.warning("%s has no %s: its files are not checked", folder, checksums.MANIFEST)

    def history(self, model: str) -> list[dict[str, Any]]:
        """Return the events of a model, oldest first; see `service/models/history.py`.

        Each has `time` and `event` (released, kept, rolled back); most have `version`, `replaced`
        and `reason`.

        Raises:
            ModelContractError: The file is damaged.
        """
        return history.read(self._folder(model), self._latest(model))

    def note(self, model: str, event: str, record: Mapping[str, Any]) -> None:
        """Add an event to the history that did not change what serves, such as a refusal.

        Raises:
            ServiceError: The repository cannot be written.
        """
        with self._changing(model):
            history.add(self._folder(model), history.line(event, record))

    def publish(
        self,
        model: str,
        onnx: Path,
        *,
        keep: int = 5,
        record: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        instead_of: int | None = -1,
        sha256: str = "",
    ) -> int:
        """Copy a file in as the next version, make it serve, and return its number.

        A kill at any moment leaves the old version serving, or the complete new one. Settings that
        an operator added to config.pbtxt are kept.

        Args:
            model: Name of the model.
            onnx: The model file.
            keep: How many versions to keep.
            record: What the history says of it, besides the time and the versions.
            files: Name → text of further files of the version, such as release.json.
            instead_of: The version that must be serving, None for none; -1: any.
            sha256: What the file must have; empty: any.

        Raises:
            InvalidArgumentError: The name is not allowed.
            ConflictError: Another version than `instead_of` serves by now.
            ModelContractError: The file breaks docs/reference/model-contract.md or has not this
                SHA-256, or config.pbtxt cannot be read.
            ServiceError: The repository cannot be written.
        """
        from service.models.model import Model

        folder = self._folder(model)
        # The file and config.pbtxt are checked before anything is written.
        Model(onnx, device="cpu")
        with self._changing(model):
            config = self._config(model) or pb.ModelConfig()
            replaced = self._replaced(model, instead_of)
            versions.remove_leftovers(folder)
            others = self.versions(model)
            before = [*self._before(model), replaced] if replaced else []
            version = versions.next_number(folder)
            versions.add(folder, version, onnx, files or {}, sha256)
            event = {"version": version, "replaced": replaced, **(record or {})}
            try:
                self._switch(model, config, "released", event, before)
            except OSError:
                # A full disk must not be filled further by each try.
                if self._serving_or_none(model) != version:
                    versions.remove(folder, version)
                raise
            # A rollback needs the versions that served before, which may not be the newest ones.
            ranked = list(dict.fromkeys([version, *reversed(before), *reversed(others)]))
            versions.remove_old(folder, ranked[keep:])
        return version

    def rollback(self, model: str, *, reason: str = "") -> int:
        """Make the version serve that served before the serving one, and return its number.

        That is not always the next lower number: a version that was rolled back is skipped.
        `reason` is kept in the history.

        Raises:
            NotFoundError: There is no such model, or no version that served before.
            ModelContractError: config.pbtxt cannot be read.
            ServiceError: The repository cannot be written.
        """
        self.serving(model)  # raises for an unknown model, before a folder is made for it
        with self._changing(model):
            serving = self.serving(model)
            *before, version = self._before(model) or [0]
            if not version:
                raise NotFoundError(
                    f"model {model!r} has no version before {serving}, which serves on"
                )
            event = {"version": version, "replaced": serving, "reason": reason}
            config = self._config(model) or pb.ModelConfig()
            self._switch(model, config, "rolled back", event, before)
        return version

    def _config(self, model: str, *, ignore_unknown: bool = False) -> pb.ModelConfig | None:
        """Return config.pbtxt, or None if there is none."""
        path = self._folder(model) / CONFIG
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        return triton_config.parse(text, path, ignore_unknown=ignore_unknown)

    def _serving_or_none(self, model: str) -> int | None:
        try:
            return self.serving(model)
        except (NotFoundError, ModelContractError):
            return None

    def _replaced(self, model: str, instead_of: int | None) -> int | None:
        """Return the version that serves, which must be `instead_of`; -1: any, or none."""
        serving = self._serving_or_none(model)
        if instead_of not in (-1, serving):
            raise ConflictError(
                f"version {serving} of {model!r} began to serve meanwhile, in the place of"
                f" {instead_of}; release again, to be measured against it"
            )
        return serving

    def _latest(self, model: str) -> dict[str, Any] | None:
        """Return the history's line of the change that made config.pbtxt, if it holds one."""
        try:
            return triton_config.line(self._config(model, ignore_unknown=True) or pb.ModelConfig())
        except ModelContractError:
            return None

    def _before(self, model: str) -> list[int]:
        """Return the versions that served before the serving one and are still there."""
        config = self._config(model, ignore_unknown=True) or pb.ModelConfig()
        noted = triton_config.served_before(config)
        if noted is None:  # config.pbtxt was not written by a release
            serving = self.serving(model)
            return [version for version in self.versions(model) if version < serving]
        there = self.versions(model)
        return [version for version in noted if version in there]

    def _switch(
        self,
        model: str,
        config: pb.ModelConfig,
        name: str,
        event: Mapping[str, Any],
        before: Sequence[int],
    ) -> None:
        """Make the version of an event serve, and add the event to the history."""
        from service.models.model import Model

        folder, version = self._folder(model), event["version"]
        metadata = Model(self.path(model, version), device="cpu").metadata
        line = history.line(name, event)
        triton_config.set_serving(
            config, model, version, image_size=metadata.image_size, classes=len(metadata.labels),
            before=before, line=line,
        )  # fmt: skip
        replace(folder / CONFIG, triton_config.to_text(config))
        history.add(folder, line)

    @contextmanager
    def _changing(self, model: str) -> Iterator[None]:
        """Hold the model's lock, which the system releases if the process is killed."""
        folder = self._folder(model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                history.add(folder, self._latest(model))
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
