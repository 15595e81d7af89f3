"""A run is measured beside what serves, then published or kept out."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from flows.release_gate import evaluation, measure
from flows.release_gate.candidate import Release
from flows.release_gate.gate import Rules
from flows.release_gate.held_out import held_out
from flows.release_gate.publish import decide, release
from service.errors import ConflictError, ModelContractError, OtherAnswersError
from service.models.repository import ModelRepository
from terminal import UserError
from tests.paths import ROOT
from tests.service import tiny_onnx


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, in which a release writes its export."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "first"))


@pytest.fixture(scope="module")
def labels(photos: Path) -> tuple[str, ...]:
    """The dishes."""
    return tuple(sorted(path.name for path in (photos / "train").iterdir()))


def serve(repository: Path, path: Path, *, always: int, **build) -> int:
    """Make a model serve that always answers with one of its labels."""
    weights = [[0.05 * (column == always) for column in range(len(build["labels"]))]] * 3
    return ModelRepository(repository).publish(
        "food42", tiny_onnx.build(path, weights=weights, **build)
    )


@pytest.fixture(scope="module")
def first(run, tmp_path_factory) -> Release:
    """The release of the run where nothing serves yet."""
    return release(run, repository=tmp_path_factory.mktemp("models"))


def test_the_first_release_is_measured_written_down_and_served(first):
    """Nothing serves: the numbers of the gate lie in the version's folder and in the history."""
    assert (True, 1) == (first.released, first.version)
    assert "first release" in first.reason
    assert first.candidate.smoke_photos == 6
    known = json.loads((first.path.parent / "release.json").read_text())
    told = json.loads((first.path.parent / "card.json").read_text())
    assert told["model"]["labels"]
    assert "## What it is not for" in (first.path.parent / "CARD.md").read_text()
    assert "test" == known["split"]
    assert 6 == sum(known["reference"]["predictions"].values())
    assert 6 == sum(known["reference"]["confidence"])
    store = ModelRepository(first.repository)
    store.verify("food42", 1)
    line = store.history("food42")[0]
    assert ("released", 1, None) == (line["event"], line["version"], line["replaced"])
    assert line["challenger_top1"] == known["verdict"]["challenger_top1"]
    assert 64 == len(line["dataset_hash"])


def test_a_release_brings_its_answers_for_servers_to_compare(first):
    """To drawn pictures, by the file that is served; on this machine they are the same."""
    from service.models.loading import verify_answers
    from service.models.model import Model

    stored = json.loads((first.path.parent / "answers.json").read_text())
    model = Model(first.path, device="cpu")
    assert (16, len(model.metadata.labels)) == np.array(stored["probabilities"]).shape
    verify_answers(first.path, model)
    # As another CPU may answer.
    predict = model.predict
    model.predict = lambda images_NHWC: predict(255 - images_NHWC)
    with pytest.raises(OtherAnswersError, match="this machine answers otherwise"):
        verify_answers(first.path, model)


def test_the_smoke_call_asks_the_engine_that_the_file_is_measured_by(monkeypatch):
    """An engine that computes in bf16 would differ by more than the call allows."""
    from service.server import server

    asked = []
    monkeypatch.setattr(server, "Server", lambda config: asked.append(config.cpu_engine))
    with pytest.raises(UserError, match="did not start"), measure._server(Path()):
        pass
    assert ["onnxruntime"] == asked


def test_served_answers_are_those_of_the_cache_the_run_was_validated_on(run, first):
    """Photos decoded again by the service's code give the accuracy that the run counted."""
    from service.models.model import Model

    photos = held_out(run, None)
    answered = measure.answers(Model(first.path, device="cpu"), photos.files)

    right = np.mean([a == b for a, b in zip(answered.predicted, photos.truth, strict=True)])
    assert json.loads((run / "result.json").read_text())["test_top1"] == pytest.approx(right)


def test_what_serves_already_is_not_weighed_or_released_again(run, first):
    """A second run after a crash finds its work done, with a reason to force it and without."""
    again = release(run, repository=first.repository)
    forced = release(run, repository=first.repository, force="a full disk")

    assert (True, 1, first.reason) == (again.released, again.version, again.reason)
    assert (True, 1) == (forced.released, forced.version)
    assert first.candidate.weighing == again.candidate.weighing
    assert 1 == len(ModelRepository(first.repository).history("food42"))


def test_a_threshold_travels_with_the_model(run, first, tmp_path):
    """In the file, the card and the history; the same weights with another one are released."""
    from service.models.model import Model

    models = tmp_path / "models"
    rules = Rules(max_slowdown=1e9)
    versions = [
        release(run, repository=models, rules=rules, min_confidence=at) for at in (0.2, 0.2, 0.3)
    ]

    assert [1, 1, 2] == [each.version for each in versions]
    assert "the same weights, in another precision or threshold" in versions[-1].reason
    assert 0.3 == Model(versions[-1].path, device="cpu").metadata.min_confidence
    assert Model(first.path, device="cpu").metadata.min_confidence is None
    candidate = versions[0].candidate
    assert 0 < candidate.answered["coverage"] <= 1
    assert candidate.threshold.startswith("0.2: ")
    assert "of the test photos are answered" in candidate.threshold
    card = (versions[0].path.parent / "CARD.md").read_text()
    assert "Answers less probable than 0.2 say `below_threshold`" in card
    lines = ModelRepository(models).history("food42")
    assert [0.2, 0.3] == [line["min_confidence"] for line in lines]


def test_what_is_no_better_is_kept_out_unless_forced(run, labels, tmp_path):
    """Kept once, however often it is decided; a person's reason overrides, and both are noted."""
    serve(tmp_path / "models", tmp_path / "x.onnx", labels=labels, always=0)
    rules = Rules(min_top1=1, max_slowdown=1e9)
    kept = release(run, repository=tmp_path / "models", rules=rules)
    assert not decide(kept.candidate, repository=tmp_path / "models").released
    forced = [
        decide(kept.candidate, repository=tmp_path / "models", force="a full disk")
        for _ in range(2)
    ]

    assert (False, 1) == (kept.released, kept.version)
    assert [(True, 2)] * 2 == [(each.released, each.version) for each in forced]
    history = ModelRepository(tmp_path / "models").history("food42")
    assert [("released", 1), ("kept", 1), ("released", 2)] == [
        (line["event"], line["version"]) for line in history
    ]
    assert "forced: a full disk (the rules: " in history[-1]["reason"]


def test_a_restart_finds_what_was_measured_and_publishes_that_file_alone(
    run, tmp_path, monkeypatch
):
    """A person looks at the numbers meanwhile: exports of the same run are other files."""
    from training.export.onnx_export import export_onnx

    models = tmp_path / "models"
    candidate = evaluation.evaluate(run, repository=models, weighing="tonight-0")
    other = evaluation.evaluate(run, repository=models, precision="fp16")
    assert Path(candidate.onnx).parent != Path(other.onnx).parent
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_weigh", None)
        again = evaluation.evaluate(run, repository=models, weighing="tonight-0")
    assert json.dumps(asdict(candidate)) == json.dumps(asdict(again))

    whole = Path(candidate.onnx).read_bytes()
    export_onnx(run, Path(candidate.onnx), precision="fp16")
    with pytest.raises(ModelContractError, match="not the file that was measured"):
        decide(again, repository=models)
    assert [] == ModelRepository(models).models()
    anew = evaluation.evaluate(run, repository=models, weighing="tonight-0")
    assert (candidate.sha256, whole) == (anew.sha256, Path(anew.onnx).read_bytes())
    assert decide(anew, repository=models).released


def test_a_published_file_names_no_folder_of_the_machine_that_made_it(first):
    """PyTorch notes for each node where in the code it comes from."""
    assert str(ROOT).encode() not in first.path.read_bytes()


def test_another_image_size_is_measured_on_the_same_photos_and_a_slow_model_kept_out(
    run, labels, tmp_path
):
    """The champion sees squares of its own size; beside its three products a ResNet is slow."""
    serve(tmp_path / "models", tmp_path / "x.onnx", labels=labels, always=0, image_size=64)

    candidate = evaluation.evaluate(run, repository=tmp_path / "models")

    assert (32, 64) == candidate.image_sizes
    assert 6 == candidate.verdict["photos"]
    assert candidate.verdict["champion_top1"] == pytest.approx(1 / 3)
    assert not candidate.promote
    assert "too slow" in candidate.reason


def test_speed_is_compared_per_pixel_and_may_have_an_absolute_limit():
    """Twice the side may take four times as long; one limit in milliseconds holds for all."""
    rules = Rules(max_slowdown=1.5, max_ms=50)

    def slow(new, old, sizes):
        return bool(evaluation._too_slow([(new, new), (old, old)], sizes, rules))

    assert not slow(14, 10, (64, 64))
    assert slow(16, 10, (64, 64))
    assert not slow(46, 10, (128, 64))
    assert slow(16, 10, (32, 64)), "fewer pixels are no excuse"
    assert "50 ms are allowed" in evaluation._too_slow([(51, 1)], (64, None), rules)


def test_another_class_list_is_measured_on_what_both_know(run, labels, tmp_path):
    """The champion knows two of the dishes, and one that is gone."""
    known = (*labels[:2], "없어진 음식")
    serve(tmp_path / "models", tmp_path / "x.onnx", labels=known, always=2)

    candidate = evaluation.evaluate(
        run, repository=tmp_path / "models", rules=Rules(max_slowdown=1e9)
    )

    verdict = candidate.verdict
    assert ("changed classes", 4, 0.0) == (
        verdict["case"], verdict["photos"], verdict["champion_top1"],
    )  # fmt: skip
    assert ((labels[2],), ("없어진 음식",)) == (verdict["added"], verdict["removed"])


def test_a_champion_that_came_meanwhile_is_not_replaced_unmeasured(first, labels, tmp_path):
    """Between the measuring and the publishing another version began to serve."""
    serve(tmp_path / "models", tmp_path / "x.onnx", labels=labels, always=0)

    with pytest.raises(ConflictError, match="began to serve meanwhile"):
        decide(first.candidate, repository=tmp_path / "models")
    assert 1 == ModelRepository(tmp_path / "models").serving("food42")


def test_photos_that_changed_or_were_learnt_are_not_measured_on(run, photos, tmp_path):
    """A changed photo and one that the champion was trained on are left out; many are refused."""
    from service.models.model import Model
    from training.data.cache import DatasetCache

    moved = tmp_path / "photos"
    shutil.copytree(photos, moved)
    about = json.loads((run / "config.json").read_text())
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    cache = tmp_path / "cache" / "it"
    shutil.copytree(about["cache"], cache)
    manifest = json.loads((cache / "manifest.json").read_text()) | {"root": str(moved)}
    old = json.loads(json.dumps(manifest)) | {"dataset_hash": "0" * 64}
    old["splits"]["train"]["hashes"][0] = manifest["splits"]["test"]["hashes"][1]
    (tmp_path / "cache" / "old").mkdir()
    (tmp_path / "cache" / "old" / "manifest.json").write_text(json.dumps(old))
    (cache / "manifest.json").write_text(json.dumps(manifest))
    (copy / "config.json").write_text(json.dumps(about | {"cache": str(cache)}))
    champion = Model(tiny_onnx.build(tmp_path / "x.onnx"), device="cpu")

    found = held_out(copy, champion)

    assert 5 == len(found.files)
    assert {"the serving model was trained on it": 1} == found.left_out
    assert 6 == len(DatasetCache.open(cache).splits["test"].files)
    for file in found.files[:2]:
        file.write_bytes(b"another photo")
    with pytest.raises(UserError, match="2 of the 6 test photos"):
        held_out(copy, champion)
