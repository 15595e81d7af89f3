"""Folds: each photo is held out once, what belongs together stays together, no pixel is copied."""

import numpy as np
import pytest

from training.data.cache import Split
from training.errors import DataError
from training.review.folds import deal, everything, without


def drawn(count: int, classes: int = 3, groups: bool = False) -> Split:
    """Return photos without pixels; with groups, five photos of one class share one."""
    targets = np.arange(count) % classes
    return Split(
        np.zeros((count, 1, 1, 3), np.uint8),
        targets,
        tuple(f"{row}.jpg" for row in range(count)),
        tuple(f"hash {row}" for row in range(count)),
        tuple(f"{row % classes}-{row // (5 * classes)}" for row in range(count)) if groups else (),
    )


def test_every_fold_has_its_share_of_every_class():
    """Of 40 photos a class, each of four folds holds out ten, give or take a few."""
    photos = drawn(120)

    fold_of = deal(photos, 4)

    held = np.histogram2d(fold_of, photos.targets, [4, 3])[0]
    assert held.min() >= 8
    assert 120 == held.sum()


def test_no_fold_cuts_a_group_or_parts_copies():
    """The photos of one group are held out together, and so are two files with one content."""
    photos = drawn(150, groups=True)
    copied = Split(
        photos.images, photos.targets, photos.files, ("same", "same", *photos.hashes[2:])
    )

    fold_of = deal(photos, 4)
    copies = deal(copied, 4)

    for group in set(photos.groups):
        members = [row for row, name in enumerate(photos.groups) if name == group]
        assert 1 == len(set(fold_of[members])), group
    assert copies[0] == copies[1]


def test_the_order_of_photos_decides_nothing():
    """Found in another order, each photo is in the fold that it was in before."""
    photos = drawn(60)
    order = np.random.default_rng(0).permutation(60)
    other = Split(
        photos.images[order],
        photos.targets[order],
        tuple(photos.files[row] for row in order),
        tuple(photos.hashes[row] for row in order),
    )

    assert deal(photos, 4)[order].tolist() == deal(other, 4).tolist()


def test_fewer_groups_than_folds_are_refused():
    """The message says how many there are, and what to change."""
    with pytest.raises(DataError, match="2 photos or groups cannot be dealt to 4 folds"):
        deal(drawn(2, classes=2), 4)


def test_a_fold_reads_the_pixels_of_the_cache(cache):
    """Rows of train, val and test come together, in the order that was asked for."""
    photos, splits = everything(cache)
    fold_of = deal(photos, 3)

    part = without(cache, photos, fold_of, 0)

    held, learnt = part.splits["val"], part.splits["train"]
    assert set(photos.files) == {*held.files, *learnt.files}
    assert not set(held.files) & set(learnt.files)
    assert {"train", "val", "test"} == set(splits)
    rows = np.array([3, 0, 2])
    for row, image in zip(rows, held.images[rows], strict=True):
        split = splits[photos.files.index(held.files[row])]
        source = cache.splits[split]
        assert np.array_equal(source.images[source.files.index(held.files[row])], image)
    assert np.array_equal(held.images[1:3][0], held.images[1])
    assert part.dataset_hash != without(cache, photos, fold_of, 1).dataset_hash
