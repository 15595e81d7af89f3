"""Fine-tuning as a flow, and what it releases beside what it began with."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from flows.release_gate.publish import release
from flows.tasks.start import start_from
from service.client import Classifier
from service.config import ServerConfig
from service.server.server import Server
from terminal import UserError
from training.errors import RunError
from training.model import pretrained
from training.samples.sample import draw_photos

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on three dishes, released as food42, and photos of three others."""
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(trained, root / "runs" / "first")
    release(root / "runs" / "first", model="food42", repository=root / "models")
    draw_photos(root / "health", classes=3, per_class=20, similar=True)
    return root


def places_of(home: Path):
    """Return where everything of the home lies."""
    from flows.tasks.parameters import Places

    return Places(runs_dir=home / "runs", cache_dir=home / "cache", repository=home / "models")


async def test_both_models_serve_side_by_side_and_are_chosen_by_name(
    prefect_server: None, home: Path
) -> None:
    """The flow fine-tunes the released model and releases it as another; gRPC answers for both."""
    from prefect.client.orchestration import get_client

    from flows.finetune import finetune
    from flows.tasks.parameters import Finetuning

    def go():
        return finetune(
            home / "health",
            "food42",
            Finetuning(
                strategy="linear-probe",
                epochs=3,
                seeds=1,
                overrides={"batch_size": "16", "threads": "1", "transfer.views": "1"},
            ),
            run_id="health",
            model="health13",
            places=places_of(home),
        )

    found = await asyncio.to_thread(go)

    assert "linear-probe" == found["recommended"]
    assert found["strategies"][0]["val_top1"] == pytest.approx(found["released"].val_top1)
    config = ServerConfig(
        repository=home / "models", host="127.0.0.1", port=0, http_port=None, metrics_port=None
    )
    photos = [path.read_bytes() for path in sorted((home / "health/val").glob("*/*.jpg"))]
    truth = [path.parent.name for path in sorted((home / "health/val").glob("*/*.jpg"))]
    async with Server(config) as server:

        def ask():
            with Classifier(f"127.0.0.1:{server.port}") as client:
                return {
                    name: (client.model(name).labels, client.classify(photos, 1, model=name))
                    for name in ("food42", "health13")
                }

        answers = await asyncio.to_thread(ask)

    old_labels, old = answers["food42"]
    new_labels, new = answers["health13"]
    assert not set(old_labels) & set(new_labels)
    assert set(new_labels) == set(truth)
    assert all(answer.classes[0].label in old_labels for answer in old)
    correct = sum(a.classes[0].label == label for a, label in zip(new, truth, strict=True))
    assert found["released"].val_top1 == correct / len(truth)
    with get_client(sync_client=True) as client:
        artifacts = {artifact.description: artifact for artifact in client.read_artifacts()}
    assert "linear-probe" in artifacts["What fine-tuning health found"].data
    table = json.loads(artifacts["Strategies of health"].data)
    assert ["linear-probe"] == [row["strategy"] for row in table]


def test_a_released_model_is_fine_tuned_from_its_run(home: Path, tmp_path: Path) -> None:
    """By name or name:version; without its run, or under a wrong name, it says what to do."""
    run = pretrained.read(home / "runs" / "first")
    places = {"repository": home / "models", "runs_dir": home / "runs"}

    assert run.sha256 == start_from("food42", **places).sha256
    assert run.sha256 == start_from("food42:1", **places).sha256
    with pytest.raises(UserError, match="food42 has no version 7; there are 1"):
        start_from("food42:7", **places)
    with pytest.raises(UserError, match=r"there is nothing at 'food43'.*food42"):
        start_from("food43", **places)
    with pytest.raises(RunError, match="can be served but not trained on"):
        start_from("food42", repository=home / "models", runs_dir=tmp_path)
