"""What training hands over is what the service serves, photo by photo."""

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.release_gate.candidate import Release
from flows.release_gate.publish import release
from service.client import Classifier
from service.config import ServerConfig
from service.errors import ModelContractError
from service.models.repository import ModelRepository
from service.server.server import Server


@pytest.fixture(scope="module")
def road(
    dishes: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Release]:
    """Drawn dishes, what a run on them reports, and its release."""
    home = tmp_path_factory.mktemp("road")
    (home / "photos").symlink_to(dishes)
    shutil.copytree(run_dir, home / "runs" / "first")
    result = json.loads((run_dir / "result.json").read_text())
    return home, result, release(home / "runs" / "first", repository=home / "models")


async def test_the_service_counts_the_top1_that_the_run_reports(road):
    """Every validation photo through gRPC gives exactly the accuracy of the best epoch."""
    import asyncio

    home, result, released = road
    photos = sorted((home / "photos" / "val").glob("*/*.jpg"))
    config = ServerConfig(
        repository=home / "models", host="127.0.0.1", port=0, http_port=None, metrics_port=None
    )
    async with Server(config) as server:

        def ask():
            with Classifier(f"127.0.0.1:{server.port}") as classifier:
                return classifier.model(), classifier.classify([p.read_bytes() for p in photos], 1)

        model, answers = await asyncio.to_thread(ask)

    correct = sum(
        answer.classes[0].label == unicodedata.normalize("NFC", photo.parent.name)
        for answer, photo in zip(answers, photos, strict=True)
    )
    assert result["val_top1"] == correct / len(photos) == released.val_top1
    assert ("food42", 1, result["val_top1"]) == (model.name, model.version, model.val_top1)
    assert model.labels == tuple(sorted(path.name for path in (home / "photos/val").iterdir()))


def test_a_plain_onnxruntime_answers(road):
    """uint8 of shape [3, S, S, 3] is answered by [3, K], with no code of ours."""
    import onnxruntime

    session = onnxruntime.InferenceSession(road[2].path)

    (rows,) = session.run(None, {"images": np.zeros((3, 32, 32, 3), np.uint8)})

    assert (3, 3) == rows.shape


def test_triton_reads_the_repository(road):
    """config.pbtxt parses with Triton's own ModelConfig, and says what the file has."""
    folder = road[0] / "models" / "food42"

    # In a process of its own: the service has messages of the same names.
    script = """
import sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(Path(sys.argv[1]).read_text("utf-8"), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "config.pbtxt")],
        check=True,
        capture_output=True,
    )
    config = json.loads(done.stdout)

    assert ("food42", "onnxruntime") == (config["name"], config["backend"])
    assert ["32", "32", "3"] == config["input"][0]["dims"]
    assert ["3"] == config["output"][0]["dims"]
    assert ["1"] == config["version_policy"]["specific"]["versions"]
    labels = folder / config["output"][0]["label_filename"]
    assert 3 == len(labels.read_text().splitlines())
    assert (folder / "1" / "model.onnx").is_file()


def test_versions_are_kept_and_rolled_back(road, tmp_path):
    """Each release is a new version; a rollback serves the one before; old ones are pruned."""
    store = ModelRepository(tmp_path)
    onnx = road[2].path

    assert [1, 2, 3, 4] == [store.publish("m", onnx, keep=3) for _ in range(4)]
    assert [2, 3, 4] == store.versions("m")
    assert 3 == store.rollback("m") == store.serving("m")
    # A number is never used twice, and what serves is never pruned.
    assert 5 == store.publish("m", onnx, keep=3) == store.serving("m")


def test_what_breaks_the_contract_is_not_published(tmp_path):
    """A file that is no model leaves the repository as it was."""
    (tmp_path / "x.onnx").write_bytes(b"junk")

    with pytest.raises(ModelContractError, match="cannot open"):
        ModelRepository(tmp_path / "models").publish("m", tmp_path / "x.onnx")
    assert [] == ModelRepository(tmp_path / "models").models()
