"""Files of a run as a training writes them, and as another machine finds them."""

import time
from collections.abc import Callable
from pathlib import Path


def write(folder: Path, **files: str) -> None:
    """Write files into a run, as checkpoints and logs are written."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".tmp-{path.name}").write_text(text)
        path.with_name(f".tmp-{path.name}").replace(path)


def read(folder: Path) -> dict[str, str]:
    """Return what is in a run, but for what is hidden."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, ten minutes at most."""
    end_s = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)
