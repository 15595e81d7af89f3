"""`hansang review --captured`: photos that the service kept, for a person to label."""

from collections import Counter
from pathlib import Path

from terminal import print_json, print_table, progress, say

_MOST = 10


def review_captured(data: Path, place: Path, folder: Path, *, as_json: bool) -> None:
    """Write the list and the page of captured photos, and say what is in them.

    Raises:
        UserError: As `training.review.captured.captured`; or the page cannot be written.
    """
    from training.review.captured import captured
    from training.review.page import write_page
    from training.review.suspect import write

    # The photos are those of callers.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with progress("captured") as report:
        found = captured(data, place, folder, progress=report)
    listed = found.to_dict()
    pages = [write(listed, folder), *write_page(listed, data, folder)]
    numbers = {
        "photos": len(found.suspects),
        "kinds": dict(sorted(Counter(one.kind for one in found.suspects).items())),
        "already_in_data": found.known, "unreadable": found.unread, "left_for_later": found.left,
    }  # fmt: skip
    if as_json:
        print_json({**numbers, "files": [str(path) for path in pages]})
        return
    rows = [[one.photo, one.label, one.kind, f"{one.score:.2f}"] for one in found.suspects[:_MOST]]
    title = f"{len(found.suspects)} captured photos; those that would teach most"
    print_table(title, ["photo", "answered", "kept as", "worth"], rows)
    for name in ("already_in_data", "unreadable", "left_for_later"):
        if numbers[name]:
            say(f"{name.replace('_', ' ')}: {numbers[name]}")
    for page in pages:
        say(f"written: {page}")
