"""Files that are absent or complete: written beside the target, synced, renamed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import sync


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well.

    A kill at any moment leaves the old file, or the new one, and at worst a `.tmp-` beside it.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file, at once and for good."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
