"""Photos to judge by that the source was trained on: right answers to them prove little."""

from training.data.cache import DatasetCache
from training.errors import DataError
from training.model.pretrained import Start


def require_unseen(cache: DatasetCache, start: Start) -> None:
    """Check that no photo of `val` or `test` is one that the source was trained on.

    They are told by their content. Where the source's photos are not known, nothing is checked.

    Raises:
        DataError: Some are; the message has their number, an example, and what to do.
    """
    learnt = _learnt(start)
    for name, split in cache.splits.items():
        if name == "train":
            continue
        seen = [
            file for file, content in zip(split.files, split.hashes, strict=False)
            if content in learnt
        ]  # fmt: skip
        if seen:
            raise DataError(
                f"{len(seen)} of the {len(split.files)} photos of {name} are among those that"
                f" {start.name} was trained on, such as {seen[0]}: it would be right on them"
                " without having learnt anything new. Put them into train/, or leave them out of"
                " the folder"
            )


def _learnt(start: Start) -> frozenset[str]:
    """Return the content hashes of the photos that the source was trained on; none if unknown."""
    if start.photos is None:
        return frozenset()
    try:
        return frozenset(DatasetCache.open(start.photos).splits["train"].hashes)
    except DataError:  # its cache is gone
        return frozenset()
