"""Photos that change during a search: it goes on with those that it began with."""

import json
import shutil

from training.cli import tune as verb
from training.tuning.study import begun_with, read_plan


def opened(photos, home):
    """Open a study by the verb's own steps, without a trial."""
    return verb._open(
        photos, "s", "default", None, home / "runs", home / "cache", recipe="scratch", epochs=4,
        image_size=32, seed=0, pruning=True, group="",
    )  # fmt: skip


def test_a_search_goes_on_with_the_photos_that_it_began_with(dishes, tmp_path, capsys):
    """New photos are said and wait; also where the study did not write down its cache."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    study, cache = opened(photos, tmp_path)
    shutil.copy(next(photos.glob("train/*/*")), next(photos.glob("train/*")) / "more.jpg")
    capsys.readouterr()

    again, same = opened(photos, tmp_path)

    assert "1 added, 0 gone, 0 other" in capsys.readouterr().err.replace("\n", " ")
    assert (study.plan, cache.path) == (again.plan, same.path)
    assert cache.dataset_hash == read_plan(study.folder).dataset_hash
    path = study.folder / "study.json"
    about = json.loads(path.read_text())
    del about["cache"]
    path.write_text(json.dumps(about))
    assert begun_with(study.folder) is None
    trial = {"config": {}, "cache": str(cache.path), "dataset_hash": cache.dataset_hash}
    (study.folder / "trial-0000").mkdir()
    (study.folder / "trial-0000" / "config.json").write_text(json.dumps(trial))
    assert cache.path == opened(photos, tmp_path)[1].path


def test_a_search_goes_on_without_its_folder(dishes, tmp_path):
    """The cache is all that trials need."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    study, cache = opened(photos, tmp_path)
    shutil.rmtree(photos)

    again, same = opened(photos, tmp_path)

    assert (study.plan, cache.path) == (again.plan, same.path)
