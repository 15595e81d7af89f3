"""A folder's files as an artifact in an OCI image layout, which registries take as it is.

oci-layout            says that this is such a folder
index.json            names the manifest, and its tag
blobs/sha256/…        the manifest, an empty config, and one blob for each file

OCI image specification 1.1, "Image Layout" and "Guidelines for Artifact Usage".
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import StorageError

ARTIFACT = "application/vnd.hansang.model.v1"
"""The artifact's type."""

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_FILE = "application/octet-stream"
_CHUNK = 2**20


def write_layout(
    files: Sequence[Path], out: Path, *, tag: str, annotations: Mapping[str, str]
) -> str:
    """Write the layout, whole or not at all; return the digest of the manifest.

    Args:
        files: Each becomes a layer that has the file's name.
        out: A folder that is not there yet.
        tag: The name of the artifact within the layout, e.g. "3".
        annotations: Of the manifest.

    Raises:
        StorageError: The folder is there already, or a file cannot be read or written.
    """
    if out.exists():
        raise StorageError(f"{out} is there already; give a folder that is not")
    temporary = out.with_name(f".{out.name}.unfinished")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        blobs = temporary / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers = [
            {**_copied(file, blobs), "annotations": {"org.opencontainers.image.title": file.name}}
            for file in files
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": ARTIFACT,
            "config": _blob(b"{}", blobs, _EMPTY),
            "layers": layers,
            "annotations": dict(annotations),
        }
        entry = _blob(_json(manifest), blobs, _MANIFEST)
        named = {"org.opencontainers.image.ref.name": tag}
        index = {"schemaVersion": 2, "manifests": [{**entry, "annotations": named}]}
        (temporary / "index.json").write_bytes(_json(index))
        (temporary / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        temporary.rename(out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}: {error.filename}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    digest: str = entry["digest"]
    return digest


def _copied(file: Path, blobs: Path) -> dict[str, Any]:
    """Copy a file among the blobs, a piece at a time; return its descriptor."""
    digest, size, unnamed = hashlib.sha256(), 0, blobs / ".unnamed"
    with file.open("rb") as source, unnamed.open("wb") as target:
        while piece := source.read(_CHUNK):
            digest.update(piece)
            size += target.write(piece)
    unnamed.rename(blobs / digest.hexdigest())
    return {"mediaType": _FILE, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _blob(data: bytes, blobs: Path, kind: str) -> dict[str, Any]:
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
