"""Drawn reviews: photos that are all suspected."""

CLASSES = ["갈비탕", "설렁탕", "김치찌개", "김밥", "egg"]


def suspect(photo, at=0, **changed):
    """Return a suspect as `review.json` holds it."""
    split, label, _ = photo.split("/")
    suggested = CLASSES[(CLASSES.index(label) + 1) % 5] if label in CLASSES else CLASSES[0]
    others = [name for name in CLASSES if name != suggested]
    return {
        "photo": photo, "label": label, "suggested": suggested, "score": 1 - at / 100,
        "kind": "label", "split": split, "neighbours": [], "xy": [at % 5 / 4, at // 5 / 4],
        "likeliest": [[suggested, 0.6], *zip(others, (0.2, 0.1, 0.05, 0.01), strict=True)],
        "group": None, "note": "",
    } | changed  # fmt: skip


def review_of(data, photos=None, **changed):
    """Return a review in which every photo of a folder is suspected, class after class."""
    photos = photos or sorted(path.relative_to(data).as_posix() for path in data.glob("*/*/*.jpg"))
    suspects = [suspect(photo, at, **changed) for at, photo in enumerate(photos)]
    pairs = [{"label": "갈비탕", "suggested": "설렁탕", "count": 5}]
    return {"data": str(data), "classes": CLASSES, "suspects": suspects, "pairs": pairs}
