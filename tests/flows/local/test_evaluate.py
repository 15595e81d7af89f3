"""`hansang evaluate`: a model's served answers on any folder, compared with another's."""

import json
import shutil

import pytest

from tests.commands import hansang
from tests.service import tiny_onnx


@pytest.fixture(scope="module")
def made(photos, trained, tmp_path_factory):
    """The drawn dishes, the run on them, and a file that answers by the colour of a photo."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "photos").symlink_to(photos)
    (root / "run").symlink_to(trained)
    labels = sorted(path.name for path in (photos / "train").iterdir())
    tiny_onnx.build(root / "colour.onnx", labels=labels)
    return root


def _evaluated(*arguments, cwd):
    ended = hansang("evaluate", *arguments, cwd=cwd)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def test_a_folder_is_answered_as_served_and_compared(made, tmp_path):
    """The test photos of a run's folder have the run's accuracy; the page holds the figures."""
    ended = _evaluated(
        made / "run", made / "photos", "--compare", made / "colour.onnx", "--json", cwd=tmp_path
    )
    found = json.loads(ended.stdout)
    result = json.loads((made / "run" / "result.json").read_text())

    assert ("test", 6, 0) == (found["split"], found["photos"], found["groups"])
    assert found["top1"] == pytest.approx(result["test_top1"], abs=1 / 6 + 1e-9)
    assert "Wilson over photos" == found["intervals"]
    assert 3 == len(found["per_class"])
    delta = found["compare"]["difference"]
    assert delta["value"] == pytest.approx(found["top1"] - found["compare"]["top1"])
    assert "Macro recall" in (tmp_path / "evaluation.html").read_text("utf-8")


def test_another_folder_counts_groups_and_leaves_out_what_it_must(made, tmp_path):
    """All photos of a folder without splits; unknown classes and broken photos are named."""
    photos = tmp_path / "photos"
    for place in (made / "photos" / "val").iterdir():
        for number, path in enumerate(sorted(place.iterdir())):
            target = photos / place.name / f"shop {number % 2}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (photos / "soup").mkdir()
    (photos / "soup" / "1.jpg").write_bytes(b"x")
    broken = next(photos.glob("*/shop 0")) / "broken.jpg"
    broken.write_bytes(b"junk")

    ended = _evaluated(
        made / "colour.onnx", photos, "--group", r"/([^/]+)/[^/]+$", "--json", cwd=tmp_path
    )
    found = json.loads(ended.stdout)

    assert "all" == found["split"]
    assert 2 == len(found["left_out"])
    assert "no class 'soup'" in found["left_out"]["soup/1.jpg"]
    assert (2, "Wilson over 2 groups") == (found["groups"], found["intervals"])


def test_a_model_that_is_not_there_is_one_sentence(made, tmp_path):
    """What was looked for is named."""
    ended = _evaluated("nowhere", made / "photos", cwd=tmp_path)

    assert 1 == ended.returncode
    assert ended.stderr.strip().splitlines()[-1].startswith("error: 'nowhere' is no run directory")
