"""A released version as an OCI image layout: what the specification asks, and the same files."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hansang import app
from service.errors import ModelContractError
from service.models.repository import ModelRepository
from storage.errors import StorageError
from terminal import UserError
from tests.service import tiny_onnx


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """Two versions of a tiny model."""
    store = ModelRepository(tmp_path / "models")
    for _ in range(2):
        store.publish("food", tiny_onnx.build(tmp_path / "tiny.onnx"))
    return store


def export(name: str, to: Path, store: ModelRepository) -> None:
    """Call the verb."""
    arguments = ["export", name, "--to", str(to), "--repository", str(store.root)]
    app(arguments, standalone_mode=False)


def test_a_version_is_a_whole_artifact(
    repository: ModelRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every blob has the digest and the size that name it, and the layers are the version."""
    out = tmp_path / "oci"
    export("food:1", out, repository)

    assert {"imageLayoutVersion": "1.0.0"} == json.loads((out / "oci-layout").read_text())
    (entry,) = json.loads((out / "index.json").read_text())["manifests"]
    assert "1" == entry["annotations"]["org.opencontainers.image.ref.name"]
    assert entry["digest"] in capsys.readouterr().out
    manifest = json.loads((out / "blobs/sha256" / entry["digest"].split(":")[1]).read_text())
    named = [entry, manifest["config"], *manifest["layers"]]
    for blob in named:
        data = (out / "blobs" / blob["digest"].replace(":", "/")).read_bytes()
        assert blob["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert blob["size"] == len(data)
    assert len(named) == len(list((out / "blobs/sha256").iterdir()))

    version = repository.path("food", 1).parent
    titles = {
        layer["annotations"]["org.opencontainers.image.title"]: layer
        for layer in manifest["layers"]
    }
    assert {path.name for path in version.iterdir()} == set(titles)
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    for name, layer in titles.items():
        shutil.copy(out / "blobs" / layer["digest"].replace(":", "/"), pulled / name)
        assert (version / name).read_bytes() == (pulled / name).read_bytes()


def test_the_serving_version_is_meant_without_a_number(
    repository: ModelRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MODEL alone."""
    export("food", tmp_path / "oci", repository)
    assert "food, version 2" in capsys.readouterr().out


def test_what_is_wrong_leaves_nothing(repository: ModelRepository, tmp_path: Path) -> None:
    """An unknown name, a damaged file, a folder that is there."""
    out = tmp_path / "oci"
    with pytest.raises(UserError, match="nothing at 'other'"):
        export("other", out, repository)
    with pytest.raises(UserError, match="no version 3"):
        export("food:3", out, repository)
    path = repository.path("food", 1)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelContractError, match="damaged"):
        export("food:1", out, repository)
    out.mkdir()
    with pytest.raises(StorageError, match="is there already"):
        export("food:2", out, repository)
    assert ["models", "oci", "tiny.onnx"] == sorted(path.name for path in tmp_path.iterdir())
    assert [] == list(out.iterdir())
