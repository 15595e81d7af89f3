"""SHA256SUMS: the checksums of a version's files, in the format of `sha256sum -c`."""

import re
from pathlib import Path

from service.errors import ModelContractError
from service.files import sha256, write

MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z][A-Za-z0-9_.-]*)")


def seal(folder: Path) -> None:
    """Write the checksums of all files of a new folder, before anyone reads it."""
    names = sorted(path.name for path in folder.iterdir())
    write(folder / MANIFEST, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def verify(folder: Path) -> None:
    """Compare the files of a folder with their checksums.

    Raises:
        FileNotFoundError: The folder has no SHA256SUMS.
        ModelContractError: A file differs from its checksum, or is missing.
    """
    manifest = folder / MANIFEST
    for line in manifest.read_text("utf-8", errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelContractError(f"{manifest} is damaged: {line!r}")
        path = folder / found[2]
        try:
            actual = sha256(path)
        except OSError as error:
            raise ModelContractError(f"{path} cannot be read: {error.strerror}") from error
        if actual != found[1]:
            raise ModelContractError(
                f"{path} is damaged: its SHA-256 is not the one in {MANIFEST};"
                " release the run again"
            )


def is_whole(folder: Path) -> bool:
    """Return whether the files of a folder match their checksums, which must be there."""
    try:
        verify(folder)
    except (OSError, ModelContractError):
        return False
    return True
