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


def test_without_a_test_split_a_part_of_validation_judges_the_finals(dishes, tmp_path, capsys):
    """It is kept by content, chooses nothing, and stays when photos come and workers join."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    shutil.rmtree(photos / "test")
    held_out = {path.relative_to(photos).as_posix() for path in photos.glob("val/*/*")}
    study, cache = opened(photos, tmp_path)
    chooses, judges = (set(cache.splits[name].files) for name in ("val", "test"))
    assert held_out == chooses | judges
    assert not chooses & judges
    assert len(judges) == study.plan.judging == read_plan(study.folder).judging
    assert set(range(len(cache.labels))) == set(cache.splits["val"].targets.tolist())
    assert not any(name in cache.splits["train"].files for name in held_out)

    shutil.copy(next(photos.glob("train/*/*")), next(photos.glob("train/*")) / "more.jpg")
    capsys.readouterr()
    again, same = opened(photos, tmp_path)
    assert (study.plan, cache.path) == (again.plan, same.path)
    assert "1 added, 0 gone, 0 other" in capsys.readouterr().err.replace("\n", " ")
    # The photos of the next study: those that judged do so again.
    shutil.rmtree(study.folder)
    assert judges == set(opened(photos, tmp_path)[1].splits["test"].files)


def test_a_search_that_began_before_keeps_its_validation_whole(dishes, tmp_path):
    """Its plan says nothing of judging, and its cache has no test split."""
    from training.data.prepare import prepare

    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    shutil.rmtree(photos / "test")
    study, _ = opened(photos, tmp_path)
    cache = prepare(photos, 32, cache_root=tmp_path / "cache")
    path = study.folder / "study.json"
    about = json.loads(path.read_text())
    del about["judging"]
    about |= {"cache": str(cache.path), "dataset_hash": cache.dataset_hash}
    path.write_text(json.dumps(about))

    again, same = opened(photos, tmp_path)

    assert (None, cache.path) == (again.plan.judging, same.path)
