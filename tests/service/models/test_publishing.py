"""What a release asks for, writes down and takes back: conditions, history, failures half way."""

import errno
import hashlib
import json
import shutil
from itertools import pairwise

import pytest

from service.errors import (
    ConflictError,
    ModelContractError,
    NotFoundError,
    ServiceError,
)
from service.models import checksums, history, repository, versions


@pytest.fixture
def onnx(tiny_onnx, tmp_path):
    """A model file to publish."""
    return tiny_onnx(tmp_path / "tiny.onnx")


def there(store) -> set[str]:
    """Return what lies in the folder of the model, besides the publishers' own notes."""
    return {path.name for path in (store.root / "food").iterdir()} - {".lock", ".last"}


def test_a_release_may_ask_which_version_it_replaces(store, onnx):
    """None for the first one; another than that is refused by both numbers, and nothing changes."""
    assert 1 == store.publish("food", onnx, instead_of=None)
    for wrong in (None, 2):
        with pytest.raises(ConflictError, match=f"version 1 of 'food' .* in the place of {wrong}"):
            store.publish("food", onnx, instead_of=wrong)
    assert {"1", "config.pbtxt", "history.jsonl"} == there(store)
    assert 2 == store.publish("food", onnx, instead_of=1)
    assert 3 == store.publish("food", onnx, instead_of=-1)
    assert [(None, 1), (1, 2), (2, 3)] == [
        (line["replaced"], line["version"]) for line in store.history("food")
    ]


def test_a_release_may_ask_for_the_bytes_that_were_measured(store, onnx):
    """A file that was replaced since is refused, and leaves nothing; its own digest passes."""
    with pytest.raises(ModelContractError, match="is not the file that was measured"):
        store.publish("food", onnx, sha256="0" * 64)
    assert set() == there(store)
    digest = hashlib.sha256(onnx.read_bytes()).hexdigest()
    # The number of the one that was refused is not used again.
    assert 2 == store.publish("food", onnx, sha256=digest)


def test_further_files_are_sealed_with_the_model(store, onnx):
    """What was measured lies beside the model, and a changed letter of it is found."""
    store.publish("food", onnx, files={"release.json": '{"dish": "김치"}'})

    beside = store.path("food", 1).with_name("release.json")
    assert '{"dish": "김치"}' == beside.read_text("utf-8")
    store.verify("food", 1)
    beside.write_text("{}")
    with pytest.raises(ModelContractError, match=r"release\.json is damaged"):
        store.verify("food", 1)


def test_history_says_what_happened_in_order(store, onnx):
    """Releases, a refusal and a rollback, each with its record; an unknown model has none."""
    assert [] == store.history("food")
    store.note("food", "kept", {"version": None, "reason": "worse"})
    store.publish("food", onnx, record={"reason": "better", "run": "김치-1"})
    store.publish("food", onnx)
    store.rollback("food", reason="too slow")

    lines = store.history("food")
    assert all(line.pop("time").endswith("+00:00") for line in lines)
    assert [
        {"event": "kept", "version": None, "reason": "worse"},
        {"event": "released", "version": 1, "replaced": None, "reason": "better",
         "run": "김치-1"},
        {"event": "released", "version": 2, "replaced": 1},
        {"event": "rolled back", "version": 1, "replaced": 2, "reason": "too slow"},
    ] == lines  # fmt: skip
    assert "김치-1" in (store.root / "food" / "history.jsonl").read_text("utf-8")


def test_a_line_that_a_kill_left_out_is_told_and_added_once(store, onnx):
    """Killed between config.pbtxt and history: told at once, written by the next change."""
    store.publish("food", onnx)
    path = store.root / "food" / "history.jsonl"
    before = path.read_text()
    store.publish("food", onnx)
    path.write_text(before)

    assert [1, 2] == [line["version"] for line in store.history("food")]
    assert before == path.read_text()
    store.note("food", "kept", {"version": 2})
    assert ["released", "released", "kept"] == [
        json.loads(line)["event"] for line in path.read_text().splitlines()
    ]
    assert 3 == len(store.history("food"))


def test_a_damaged_history_is_named(store, onnx):
    """Whoever asks, and whoever would write, is told which file; the model serves on."""
    store.publish("food", onnx)
    path = store.root / "food" / "history.jsonl"
    for text in ("{", "3\n"):
        path.write_text(text)
        for call in (store.history, store.rollback, lambda m: store.note(m, "kept", {})):
            with pytest.raises(ModelContractError, match=r"history\.jsonl is damaged"):
                call("food")
    assert 1 == store.serving("food")


def test_versions_to_fall_back_to(store, onnx):
    """What served before, the latest first, and then the newest, each once."""
    for _ in range(4):
        store.publish("food", onnx)
    store.rollback("food")

    assert [2, 1, 4, 3] == store.fallbacks("food")
    with (store.root / "food" / "config.pbtxt").open("a") as config:
        config.write("field_of_a_newer_triton: 3\n")
    assert [2, 1, 4, 3] == store.fallbacks("food")
    shutil.rmtree(store.path("food", 2).parent)
    assert [1, 4, 3] == store.fallbacks("food")
    (store.root / "food" / "config.pbtxt").write_bytes(b"\xff")
    assert [4, 3, 1] == store.fallbacks("food")


def test_only_models_and_versions_count(store, onnx):
    """Names that are none, a folder without a model, and one without a config are passed over."""
    assert [] == store.models() == store.versions("food")
    for name in ("food", "drink"):
        store.publish(name, onnx)
    (store.root / "empty").mkdir()
    shutil.copytree(store.root / "food", store.root / "-odd")
    for name in ("0", "01", "+3", "1x", "-2"):
        shutil.copytree(store.path("food", 1).parent, store.root / "food" / name)
    (store.root / "food" / "7").mkdir()

    assert ["drink", "food"] == store.models()
    assert [1] == store.versions("food")
    # A folder that somebody emptied still counts, and a note that cannot be read does not.
    (store.root / "food" / ".last").write_text("x")
    assert 8 == store.publish("food", onnx)


def test_state_changes_with_what_serves(store, onnx):
    """config.pbtxt and any file of a version; what others write beside them does not count."""
    store.publish("food", onnx)
    seen = [store.state("food")]
    assert seen[0] == store.state("food")
    (store.root / "food" / ".tmp-x").mkdir()
    (store.root / "food" / ".tmp-x" / "model.onnx").write_bytes(b"")
    assert seen[0] == store.state("food")
    (store.root / "food" / "config.pbtxt").write_text("x")
    seen.append(store.state("food"))
    store.path("food", 1).with_name("labels.txt").write_text("other")
    seen.append(store.state("food"))
    store.path("food", 1).unlink()
    seen.append(store.state("food"))
    assert all(one != other for one, other in pairwise(seen))


def test_a_release_that_cannot_switch_leaves_no_version(store, onnx, monkeypatch):
    """A full disk: the old one serves, nothing of the new one is left, and the next one works."""
    store.publish("food", onnx)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(repository, "replace", full)
        with pytest.raises(ServiceError, match=r"cannot change .*food: .*No space left"):
            store.publish("food", onnx)
    assert {"1", "config.pbtxt", "history.jsonl"} == there(store)
    assert 3 == store.publish("food", onnx)


def test_a_release_that_serves_stays_whatever_fails_after(store, onnx, monkeypatch, caplog):
    """The history cannot be written: the new version is named already, and must be there."""
    store.publish("food", onnx)
    add = history.add

    def full(folder, line):
        if line["version"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(folder, line)

    with monkeypatch.context() as patched:
        patched.setattr(history, "add", full)
        with pytest.raises(ServiceError, match="No space left"):
            store.publish("food", onnx)
    assert 2 == store.serving("food")
    store.verify("food", 2)
    assert [1, 2] == [line["version"] for line in store.history("food")]
    with monkeypatch.context() as patched:
        patched.setattr(versions.shutil, "rmtree", full)
        patched.setattr(versions, "remove", lambda *_: full(None, {"version": 2}))
        assert 3 == store.publish("food", onnx, keep=1)
    assert "an old version stays" in caplog.text


def test_a_version_that_cannot_be_completed_leaves_nothing(store, onnx, monkeypatch):
    """The disk is full as its files are written: the folder that was begun goes with the error."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checksums, "seal", full)
        with pytest.raises(ServiceError, match="No space left"):
            store.publish("food", onnx)
    assert set() == there(store)


def test_a_rollback_needs_a_version_before(store, onnx):
    """A config of another hand with one version, and one whose earlier versions are gone."""
    store.publish("food", onnx)
    store.publish("food", onnx, keep=1)
    with pytest.raises(NotFoundError, match="no version before 2, which serves on"):
        store.rollback("food")
    (store.root / "food" / "config.pbtxt").write_text(
        "version_policy { specific { versions: 2 } }\nfield_of_tomorrow: 3\n"
    )
    assert 2 == store.serving("food")
    with pytest.raises(ModelContractError, match="field_of_tomorrow"):
        store.publish("food", onnx)
    assert [2] == store.versions("food")


def test_labels_beside_a_model_must_be_its_own(store, onnx):
    """Triton reads labels.txt, the service the model's own; without the file nothing differs."""
    store.publish("food", onnx)
    path = store.path("food", 1)

    versions.verify_labels(path, ("red", "green", "blue"))
    with pytest.raises(ModelContractError, match=r"labels\.txt has other labels"):
        versions.verify_labels(path, ("red", "green"))
    path.with_name("labels.txt").unlink()
    versions.verify_labels(path, ("red", "green"))


def test_versions_in_a_bucket_are_complete_with_their_checksums():
    """By the names alone: of this model, of a number, with SHA256SUMS; a claim is no file."""
    names = [
        "food/1/model.onnx", "food/1/SHA256SUMS", "food/1/.claimed", "food/2/.claimed",
        "food/2/model.onnx", "drink/3/SHA256SUMS", "food/x/SHA256SUMS", "food/4/a/SHA256SUMS",
        "food/config.pbtxt",
    ]  # fmt: skip

    assert {1: ["model.onnx", "SHA256SUMS"]} == versions.complete_in("food", names)
    assert versions.of_version("food", "food/2/.claimed")
    assert not versions.of_version("food", "food/config.pbtxt")


def test_a_folder_is_whole_with_every_file_of_its_list(tmp_path):
    """A line that is no checksum, also one that leads out of the folder, is a damage."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    assert not checksums.is_whole(tmp_path), "no list"
    checksums.seal(tmp_path)
    assert checksums.is_whole(tmp_path)
    listed = tmp_path / "SHA256SUMS"
    listed.write_text(listed.read_text() + f"{'0' * 64}  ../other\n")
    assert not checksums.is_whole(tmp_path)
