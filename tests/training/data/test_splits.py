"""Splits that are drawn: stable as photos and classes are added, whole groups, every class."""

import json

import numpy as np
import pytest

from training.data.dataset import scan
from training.data.prepare import prepare
from training.data.splits import draw, kept_for_judging
from training.errors import DataError


def _placed(units, targets, seed=0):
    return dict(zip(units, draw(units, targets, seed), strict=True))


@pytest.mark.parametrize("photos_a_unit", [1, 15], ids=["photos", "groups of 15"])
def test_thirty_nights_of_new_photos_leave_held_out_photos_held_out(photos_a_unit):
    """After 30 nights of 1 % new photos and a new class, 99 % of the held-out photos still are."""
    random = np.random.default_rng(0)
    left = total = learnt = 0
    for seed in range(10):
        units = [f"unit {n}" for n in range(42 * 60)]
        targets = [n % 42 for n in range(len(units))]
        before = _placed(units, targets, seed)
        for night in range(30):
            new = [f"night {night}, unit {n}" for n in range(len(units) // 100)]
            units += new
            targets += random.integers(0, 43 if night > 9 else 42, len(new)).tolist()
        after = _placed(units, targets, seed)
        held = [unit for unit, split in before.items() if split != "train"]
        total += len(held) * photos_a_unit
        left += sum(after[unit] == before[unit] for unit in held) * photos_a_unit
        learnt += sum(after[unit] == "train" for unit in held)

    assert left / total >= 0.99
    assert learnt / len(before) < 0.01


def test_shares_are_80_10_10():
    """Of many units, a tenth each is held out."""
    found = draw([str(n) for n in range(20_000)], [0] * 20_000, 0)

    assert 0.1 == pytest.approx(found.count("val") / 20_000, abs=0.01)
    assert 0.1 == pytest.approx(found.count("test") / 20_000, abs=0.01)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_small_classes_are_in_train_and_in_val(count):
    """Two units are one to train and one to validate; more may give one to test as well."""
    for seed in range(200):
        found = draw([f"{seed} {n}" for n in range(count)], [0] * count, seed)

        assert {"train", "val"} <= set(found)


def test_the_order_of_photos_decides_nothing():
    """The same photos in another order are in the same splits."""
    units, targets = [str(n % 9) for n in range(40)], [n % 9 % 3 for n in range(40)]

    assert _placed(units, targets) == _placed(units[::-1], targets[::-1])


def test_no_split_parts_a_group_or_the_copies_of_a_file(folder, tmp_path):
    """Photos of one group, and copies of a file under any name, are in one split."""
    root = folder({"apple": 30, "pear": 30})
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.rename(path.with_name(f"{path.parent.name}{number // 5:03}S({number % 5}).jpg"))
    (root / "pear" / "copy.jpg").write_bytes((root / "pear" / "pear006S(0).jpg").read_bytes())

    by_group = prepare(
        scan(root, group=r"/(\w+?\d+)[ST]"), 32, cache_root=tmp_path / "cache"
    )  # fmt: skip
    by_content = prepare(scan(root), 32, cache_root=tmp_path / "cache")

    splits = [
        {(group or file, name) for name, split in by_group.splits.items()
         for group, file in zip(split.groups, split.files, strict=True)}
    ]  # fmt: skip
    assert len(splits[0]) == len({group for group, _ in splits[0]}) == 13
    of = {file: name for name, split in by_content.splits.items() for file in split.files}
    assert of["pear/copy.jpg"] == of["pear/pear006S(0).jpg"]
    assert all(not split.groups for split in by_content.splits.values())


def test_a_class_of_one_group_is_refused(folder):
    """A class that cannot be parted is refused, and the sentence says why."""
    root = folder({"apple": 4, "pear": 4})

    with pytest.raises(DataError, match="'apple' are one group"):
        scan(root, group=r"(apple|pear/\d)")


def test_groups_leave_given_splits_and_their_cache_alone(folder, tmp_path):
    """Where splits are given, groups change neither the cache nor its hash, and come beside it."""
    root = folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    plain = prepare(root, 32, cache_root=tmp_path / "cache")
    before = json.loads((plain.path / "manifest.json").read_text())

    grouped = prepare(scan(root, group="folder|(/[ab]/)"), 32, cache_root=tmp_path / "cache")

    assert (plain.path, plain.dataset_hash) == (grouped.path, grouped.dataset_hash)
    assert before == json.loads((plain.path / "manifest.json").read_text())
    assert {"/a/", "/b/"} == set(grouped.splits["val"].groups)


def test_a_third_of_validation_is_kept_for_judging_and_stays_kept():
    """New photos and new classes move none of the others; each class leaves some to choose by."""
    units = [f"unit {n}" for n in range(3000)]
    targets = [n % 100 for n in range(3000)]
    kept = dict(zip(units, kept_for_judging(units, targets), strict=True))
    more = [f"new {n}" for n in range(300)]
    later = kept_for_judging([*more, *units], [*(n % 110 for n in range(300)), *targets])

    assert 0.3 < np.mean(list(kept.values())) < 0.37
    assert list(kept.values()) == later[300:]


def test_no_class_is_kept_as_a_whole():
    """A class of one unit chooses; where all of them would be kept, one is not."""
    alone = [kept_for_judging([f"unit {n}"], [0]) for n in range(50)]
    assert [[False]] * 50 == alone
    pairs = [kept_for_judging([f"unit {n}", f"other {n}"], [0, 0]) for n in range(50)]
    assert {1, 2} == {pair.count(False) for pair in pairs}
