"""The versions in a model's folder: their numbers, and adding and removing them as a whole.

The caller holds the model's lock. What is not complete yet, or removed, is named `.tmp-<version>`.
"""

import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from service.errors import ModelContractError
from service.files import replace, sha256, write
from service.models import checksums
from storage import sync

logger = logging.getLogger(__name__)

CLAIM = ".claimed"
"""File in a bucket by which one publisher took a number."""
VERSION = re.compile(r"[1-9][0-9]{0,17}")
_LEFTOVER = re.compile(
    rf"\.tmp-({VERSION.pattern}|[0-9a-f]{{12}}-(\.last|history\.jsonl|config\.pbtxt))"
)
"""What a publisher writes to before it is there: a version, or a file that it replaces."""


def labels_text(labels: Sequence[str]) -> str:
    """Return the content of labels.txt."""
    return "".join(f"{label}\n" for label in labels)


def next_number(folder: Path) -> int:
    """Return a version number that was never used, and note that it is taken now."""
    try:
        last = int((folder / ".last").read_text())
    except (FileNotFoundError, ValueError):
        last = 0
    # A folder that somebody emptied still counts.
    numbers = [int(path.name) for path in folder.iterdir() if VERSION.fullmatch(path.name)]
    version = max([*numbers, last]) + 1
    replace(folder / ".last", f"{version}\n")
    return version


def add(folder: Path, version: int, onnx: Path, files: Mapping[str, str], digest: str = "") -> None:
    """Add a version: a copy of a model file, and other `files`. It is complete or absent.

    Raises:
        ModelContractError: The copy breaks the contract, or has not the SHA-256 `digest`.
    """
    from service.models.model import Model

    new = folder / f".tmp-{version}"
    new.mkdir()
    try:
        shutil.copyfile(onnx, new / "model.onnx")
        if digest not in ("", sha256(new / "model.onnx")):
            raise ModelContractError(
                f"{onnx} is not the file that was measured: it was replaced since; release the run"
                " again"
            )
        # Opening the copy finds weights that lie in a second file, which was not copied.
        labels = Model(new / "model.onnx", device="cpu").metadata.labels
        write(new / "labels.txt", labels_text(labels))
        sync(new / "model.onnx")
        for name, text in files.items():
            write(new / name, text)
        checksums.seal(new)
        sync(new)
    except BaseException:
        # What cannot be removed either, the next release does.
        shutil.rmtree(new, ignore_errors=True)
        raise
    new.rename(folder / str(version))
    sync(folder)


def remove(folder: Path, version: int) -> None:
    """Remove a version at once: a kill leaves no incomplete one."""
    removed = folder / f".tmp-{version}"
    (folder / str(version)).rename(removed)
    shutil.rmtree(removed)


def remove_old(folder: Path, old: Iterable[int]) -> None:
    """Remove versions; one that cannot be removed is left to the next release."""
    try:
        for version in old:
            remove(folder, version)
    except OSError as error:
        logger.warning("an old version stays in %s: %s", folder, error)


def verify_labels(onnx: Path, labels: Sequence[str]) -> None:
    """Compare labels.txt, which Triton reads, with the labels in the model file beside it.

    Raises:
        ModelContractError: They differ.
    """
    path = onnx.with_name("labels.txt")
    if path.is_file() and path.read_text("utf-8") != labels_text(labels):
        raise ModelContractError(f"{path} has other labels than the model file beside it")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed publisher left: only the lock's holder writes to such names.

    Others, such as `hansang drift`, write beside them without the lock, to names of their own.
    """
    for left in folder.glob(".tmp-*"):
        if _LEFTOVER.fullmatch(left.name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def of_version(model: str, name: str) -> bool:
    """Return whether a name in a bucket is that of a file of a version of this model."""
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == model and bool(VERSION.fullmatch(parts[1]))


def complete_in(model: str, names: Iterable[str]) -> dict[int, list[str]]:
    """Return the complete versions of a model in a bucket, each with the names of its files."""
    versions: dict[int, list[str]] = {}
    for each in names:
        if of_version(model, each) and not each.endswith(f"/{CLAIM}"):
            _, version, name = each.split("/")
            versions.setdefault(int(version), []).append(name)
    return {version: files for version, files in versions.items() if checksums.MANIFEST in files}
