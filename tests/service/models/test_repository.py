"""The model repository: whole versions, one that serves, and nothing half after a kill."""

import json
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from service.errors import InvalidArgumentError, ModelContractError, NotFoundError, ServiceError
from tests.service.models.test_repository_kills import start

# In a process of its own: the service has messages of the same names.
PARSER = """
import sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(Path(sys.argv[1]).read_text("utf-8"), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def names(folder: Path) -> set[str]:
    """Name what lies in a folder."""
    return {path.name for path in folder.iterdir()}


def test_published_version_serves(publish, store):
    """Versions count up from 1; each is there whole, and the newest serves."""
    assert [1, 2] == [publish("food"), publish("food", labels=("붉은", "green", "blue"))]
    assert ["food"] == store.models()
    assert [1, 2] == store.versions("food")
    assert 2 == store.serving("food")
    assert ["images"] == [
        node.name for node in onnxruntime.InferenceSession(store.path("food", 2)).get_inputs()
    ]


def test_labels_belong_to_their_version(publish, store):
    """A release with other labels leaves those of the older version as they were."""
    publish("food")
    publish("food", labels=("붉은", "푸른", "blue"))
    first, second = (store.path("food", version).with_name("labels.txt") for version in (1, 2))
    assert "red\ngreen\nblue\n" == first.read_text("utf-8")
    assert "붉은\n푸른\nblue\n" == second.read_text("utf-8")


@pytest.mark.parametrize("steps", ["publish", "rollback"])
def test_triton_reads_the_config(publish, store, steps):
    """config.pbtxt parses with Triton's own ModelConfig, and names what the service serves."""
    pytest.importorskip("tritonclient")
    publish("food", image_size=16)
    publish("food", labels=("red", "green"), image_size=8)
    if steps == "rollback":
        store.rollback("food")
    folder = store.root / "food"
    with start(PARSER, folder / "config.pbtxt") as parser:
        config = json.loads(parser.stdout.read())
    version, size, classes = (2, 8, 2) if steps == "publish" else (1, 16, 3)
    assert ("food", "onnxruntime", 64) == (
        config["name"],
        config["backend"],
        config["max_batch_size"],
    )
    assert [str(version)] == config["version_policy"]["specific"]["versions"]
    (source,), (result,) = config["input"], config["output"]
    assert ("images", "TYPE_UINT8") == (source["name"], source["data_type"])
    assert [str(size), str(size), "3"] == source["dims"]
    assert ("probabilities", "TYPE_FP32") == (result["name"], result["data_type"])
    assert [str(classes)] == result["dims"]
    assert classes == len((folder / result["label_filename"]).read_text("utf-8").splitlines())


def test_rollback_goes_back_one_version_at_a_time(publish, store):
    """Each rollback serves the version before; at the first one it says that there is none."""
    for _ in range(3):
        publish("food")
    assert [2, 1] == [store.rollback("food"), store.rollback("food")]
    with pytest.raises(NotFoundError, match="no version before 1"):
        store.rollback("food")
    assert 1 == store.serving("food")
    assert [1, 2, 3] == store.versions("food")


def test_rollback_skips_what_was_gone_back_from(publish, store):
    """Release 3, go back to 2, release 4, go back: 2 serves, and not 3, which was no good."""
    for _ in range(3):
        publish("food")
    assert 2 == store.rollback("food")
    assert 4 == publish("food")
    assert [2, 1] == [store.rollback("food"), store.rollback("food")]


def test_what_a_rollback_needs_is_kept(publish, store, tiny_onnx, tmp_path):
    """Pruning spares the version that served before, though a newer one was gone back from."""
    onnx = tiny_onnx(tmp_path / "tiny.onnx")
    for _ in range(3):
        publish("food")
    store.rollback("food")
    assert 4 == store.publish("food", onnx, keep=2)
    assert [2, 4] == store.versions("food")
    assert 2 == store.rollback("food")


def test_repository_of_another_hand_rolls_back_by_number(publish, store):
    """Where config.pbtxt does not say what served before, it is the next lower version."""
    for _ in range(2):
        publish("food")
    config = store.root / "food" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: 2 } }")
    assert 1 == store.rollback("food")


def test_checksums_are_those_of_sha256sum(publish, store):
    """SHA256SUMS is read by the common tool, and covers every file that is served."""
    publish("food")
    folder = store.path("food", 1).parent
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert {"SHA256SUMS", "labels.txt", "model.onnx"} == names(folder)


def test_damaged_version_is_named(publish, store, caplog):
    """A flipped bit, a missing file or a torn list is found; a folder without a list is taken."""
    publish("food")
    folder = store.path("food", 1).parent
    store.verify("food", 1)
    onnx = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(onnx[:-1] + bytes([onnx[-1] ^ 1]))
    with pytest.raises(ModelContractError, match=r"model\.onnx is damaged"):
        store.verify("food", 1)
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelContractError, match="cannot be read"):
        store.verify("food", 1)
    (folder / "SHA256SUMS").write_text("x\n")
    with pytest.raises(ModelContractError, match="is damaged"):
        store.verify("food", 1)
    (folder / "SHA256SUMS").unlink()
    store.verify("food", 1)
    assert "not checked" in caplog.text


def test_number_is_never_used_twice(publish, store):
    """After a rollback, the next release takes a new number and not the one gone back from."""
    publish("food")
    publish("food")
    store.rollback("food")
    assert 3 == publish("food") == store.serving("food")


def test_old_versions_are_pruned(publish, store, tiny_onnx, tmp_path):
    """`keep` versions stay, the newest, whichever of them served before."""
    onnx = tiny_onnx(tmp_path / "tiny.onnx")
    for _ in range(4):
        store.publish("food", onnx, keep=3)
    assert [2, 3, 4] == store.versions("food")
    assert 5 == store.publish("food", onnx, keep=1) == store.serving("food")
    assert {"5", "config.pbtxt", "history.jsonl", ".lock", ".last"} == names(store.root / "food")


def test_a_release_removes_what_publishers_left_and_nothing_that_others_write(publish, store):
    """A killed publisher's version and files go; what `hansang drift` is writing stays."""
    publish("food")
    folder = store.root / "food"
    (folder / ".tmp-2").mkdir()
    left = [".tmp-0123456789ab-config.pbtxt", ".tmp-0123456789ab-history.jsonl"]
    written = ".tmp-0123456789ab-.traffic.jsonl"
    for name in (*left, written):
        (folder / name).write_text("")
    assert 2 == publish("food")
    assert {written} == {name for name in names(folder) if name.startswith(".tmp-")}


@pytest.mark.parametrize(
    "broken",
    [{"batch": 4}, {"input_type": 1}, {"properties": {"labels": None}}],
    ids=["fixed batch", "float input", "no labels"],
)
def test_broken_file_is_refused(publish, store, broken):
    """A file that breaks the contract changes nothing: not a folder is made for it."""
    with pytest.raises(ModelContractError):
        publish("food", **broken)
    assert [] == store.models() == list(store.root.iterdir())
    publish("food")
    with pytest.raises(ModelContractError):
        publish("food", **broken)
    assert ([1], 1) == (store.versions("food"), store.serving("food"))


@pytest.mark.parametrize(
    "name", ["", "..", "../food", "a/b", ".tmp-1", "food\n", "김밥", "a" * 129]
)
def test_name_is_never_a_path(store, tiny_onnx, tmp_path, name):
    """Whatever could lead out of the repository is refused by every method."""
    onnx = tiny_onnx(tmp_path / "tiny.onnx")
    for call in (
        lambda: store.publish(name, onnx),
        lambda: store.rollback(name),
        lambda: store.serving(name),
        lambda: store.versions(name),
        lambda: store.path(name, 1),
    ):
        with pytest.raises(InvalidArgumentError):
            call()
    assert not store.root.exists()


def test_unknown_model_is_named(publish, store):
    """A wrong name is answered with the right ones, and makes no folder."""
    publish("food")
    for call in (store.serving, store.rollback):
        with pytest.raises(NotFoundError, match=r"'drink'.*there is food"):
            call("drink")
    assert {"food"} == names(store.root)


def test_config_that_names_no_version_is_refused(publish, store):
    """A config.pbtxt that was spoilt by hand is named, and not guessed from."""
    publish("food")
    config = store.root / "food" / "config.pbtxt"
    config.write_text(config.read_text().replace("versions: [1]", "versions: [7]"))
    with pytest.raises(ModelContractError, match="version 7, which is not there"):
        store.serving("food")
    config.write_text('name: "food"\n')
    with pytest.raises(ModelContractError, match="names no serving version"):
        store.serving("food")


def test_repository_that_cannot_be_written_is_named(publish, store, tmp_path, tiny_onnx):
    """A file where the repository should be is an error for people, not a traceback."""
    (tmp_path / "models").write_text("")
    with pytest.raises(ServiceError, match="models"):
        store.publish("food", tiny_onnx(tmp_path / "tiny.onnx"))
