"""Where class folders lie: below a wrapping folder, in splits by any of their names, or alone."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

Parts = tuple[str, ...]

SPLITS = ("train", "val", "test")
_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "훈련": "train", "학습": "train", "검증": "val",
    "시험": "test", "평가": "test", "테스트": "test",
}  # fmt: skip
_BEFORE = re.compile(r"^\d{1,2}[\s._-]+")
_AFTER = re.compile(r"[\s_-]*(set|data|images|(19|20)\d\d|용|데이터)?$")
"""What stands around a split's name: `1.Training`, `val_set`, `train2017`."""
_CONTAINERS = frozenset({"images", "image", "imgs", "img", "photos", "pictures", "jpegimages"})
"""Folders that stand between a split and its classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the folders of a set of photos are meant."""

    base: Parts
    """The folder that holds splits or classes; empty where nothing is wrapped around them."""
    parents: dict[Parts, str]
    """Folder of class folders → its split; empty where splits are drawn."""
    notes: tuple[str, ...] = ()
    """What was understood and is not plain to see."""
    refusal: str = ""
    """Why it cannot be meant so, and the way out."""


@dataclass(slots=True)
class _Node:
    """A folder with photos in it or below."""

    num_photos: int = 0
    folders: dict[str, "_Node"] = field(default_factory=dict)

    def holds_classes(self) -> bool:
        """Return whether these are class folders, and not the folders of one class by date."""
        return len(self.folders) >= (2 if self.num_photos else 1)


def split_of(name: str) -> str | None:
    """Return the split that a name stands for: `Valid` is val; None if it is no such name."""
    name = _BEFORE.sub("", unicodedata.normalize("NFC", name).strip().lower())
    return _NAMES.get(_AFTER.sub("", name))


def layout(photos: Iterable[Parts]) -> Layout:
    """Return what the paths of photos say; see `Layout.refusal` for what they leave open."""
    top = _tree(photos)
    node, base = top, Parts()
    # A zip unpacks into a folder of its name, often twice.
    while len(node.folders) == 1:
        ((name, only),) = node.folders.items()
        loose = node.num_photos > 0 and len(only.folders) < 2
        if split_of(name) or loose or not only.holds_classes():
            break
        node, base = only, (*base, name)
    notes = [f"photos are taken from {'/'.join(base)}, the only folder with photos"] if base else []
    splits = {
        name: split
        for name in sorted(node.folders)
        if (split := split_of(name)) and node.folders[name].holds_classes()
    }
    others = [name for name in node.folders if name not in splits]
    # A lone one among class folders is a class of that name, its photos in folders of their own.
    if not splits or (others and not {"train"} < set(splits.values())):
        refusal = ""
        if node.folders and all(map(split_of, node.folders)):
            direct = sorted(name for name in others if node.folders[name].num_photos)
            refusal = (
                f"{_listed(direct)} without class folders: photos lie directly in it; put them into"
                " a folder for each class, or give a table of them (path,label,split) instead"
            )
        return Layout(base=base, parents={base: ""}, notes=tuple(notes), refusal=refusal)
    as_other = [f"{name} is taken as {split}" for name, split in splits.items() if name != split]
    alone = all(len(node.folders[name].folders) == 1 for name in splits)
    parents = {
        _unwrapped(node.folders[name], (*base, name), alone): split
        for name, split in splits.items()
    }
    if as_other:
        notes.append(", ".join(as_other))
    if wrapped := ["/".join(path) for path in parents if alone and len(path) > len(base) + 1]:
        notes.append(f"photos are taken from {_listed(wrapped)}, the only folders there")
    return Layout(
        base=base,
        parents=parents,
        notes=tuple(notes),
        refusal=_wrong(splits),
    )


def _wrong(splits: dict[str, str]) -> str:
    """Return what is wrong with the splits that are there; empty if nothing is."""
    for split in SPLITS:
        same = [name for name, meant in splits.items() if meant == split]
        if len(same) > 1:
            return f"{_listed(same)} both look like {split}; keep one, or rename the other"
    there = {split: name for name, split in splits.items()}
    if "train" not in there:
        return (
            f"{_listed(splits)} without a train folder; add it, or put the class folders directly"
            " into the folder and they are split for you"
        )
    if "val" not in there:
        test = there.get("test")
        way = f"rename {test} to val, or " if test else ""
        return (
            f"{_listed(splits)} but no val folder; {way}move some photos of each class into"
            f" val/CLASS, or give {there['train']} alone and it is split for you"
        )
    return ""


def _unwrapped(node: _Node, path: Parts, alone: bool) -> Parts:
    """Return the folder in a split that holds its class folders: it may be wrapped around them.

    Args:
        node: The split's folder.
        path: Its path.
        alone: Whether each split holds one folder only: one class alone would be nothing to learn.
    """
    while not node.num_photos and len(node.folders) == 1:
        ((name, only),) = node.folders.items()
        wraps = alone and len(only.folders) > 1
        if not (wraps or name.lower() in _CONTAINERS) or not only.holds_classes():
            break
        node, path = only, (*path, name)
    return path


def _tree(photos: Iterable[Parts]) -> _Node:
    top = _Node()
    for parts in photos:
        node = top
        for name in parts[:-1]:
            below = node.folders.get(name)
            if below is None:
                below = node.folders[name] = _Node()
            node = below
        node.num_photos += 1
    return top


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
