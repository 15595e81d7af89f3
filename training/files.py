"""Files that are absent or complete: written beside the target, synced, renamed."""

from pathlib import Path

from storage import replacing as replacing


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file, so that a reader sees the old text or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
