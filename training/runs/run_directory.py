"""A run directory: its settings, its lock and its metrics.

config.json      settings, labels, dataset hash, versions: written once, compared on resume
metrics.jsonl    a line per epoch, rewritten from the checkpoint's history
result.json      written after the last epoch
.lock            held by the process that trains
"""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.errors import BusyError, RunError
from training.files import write_text
from training.runs import checkpoint
from training.runs.exactness import continued
from training.runs.older import FORMAT, require_same_steps


@contextmanager
def locked(run_dir: Path, wanted: bool = True) -> Iterator[None]:
    """Hold the lock of a run directory; the system releases it when the process ends in any way.

    Of processes that train together only the leading one takes it, and `wanted` is off for others.

    Raises:
        BusyError: Another process trains in it.
        RunError: It cannot be written to.
    """
    if not wanted:
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Not "w", which would erase the owner's process ID.
        lock = (run_dir / ".lock").open("a+")
    except OSError as error:
        raise RunError(f"cannot write to the run directory {run_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(20).strip()
            raise BusyError(
                f"another process{f' (pid {owner})' if owner else ''} trains in {run_dir};"
                " wait for it, or choose another --run"
            ) from None
        with suppress(OSError):  # a full disk: the lock holds without a name
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


def read(run_dir: Path) -> dict[str, Any] | None:
    """Return what `config.json` holds, or None if no run began here.

    Raises:
        RunError: The file is damaged, or of another program.
    """
    about = _parsed(run_dir)
    if about is None:
        return None
    if not isinstance(about, dict):
        raise RunError(f"{run_dir}/config.json is damaged: it holds no table")
    if not isinstance(about.get("config"), dict) or "dataset_hash" not in about:
        raise RunError(
            f"{run_dir}/config.json is damaged, or of another program: it has no settings and"
            " photos of a run; choose another --run"
        )
    return about


def _parsed(run_dir: Path) -> Any:
    try:
        return json.loads((run_dir / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{run_dir}/config.json is damaged: {error}") from error


def begun_in(*folders: Path) -> dict[str, Any] | None:
    """Return what the first run in these folders, or below them, holds as `config.json`.

    The runs of a study learn from the same photos: those that its first run began with.

    Raises:
        RunError: The file is damaged.
    """
    for folder in folders:
        for below in ("", "*/", "*/*/"):
            for path in sorted(folder.glob(f"{below}config.json")):
                about = _parsed(path.parent)
                if isinstance(about, dict) and "dataset_hash" in about:
                    return about
    return None


def open_or_create(
    run_dir: Path, config: TrainConfig, cache: DatasetCache, computing: Mapping[str, Any], *,
    extend: bool = False, accept_changes: bool = False, start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `config.json`, or check that the run that began here goes on to the same bits.

    Args:
        run_dir: The run directory.
        config: The settings of the run.
        cache: The photos.
        computing: What computes, see `training/runs/exactness.py`; of a run that exists and of
            which nothing is computed any more, nothing.
        extend: Allow a run that exists more epochs.
        accept_changes: Allow a run that exists another way of computing, and note it.
        start: What to record about the weights that the run starts from.

    Returns what `config.json` holds now.

    Raises:
        RunError: The run has another config, dataset or class list, or another way of computing
            (the message lists them), or an older version began it and this one would go on
            otherwise.
    """
    wanted = {
        "config": config.to_dict(),
        "labels": list(cache.labels),
        "dataset_hash": cache.dataset_hash,
    }
    about = read(run_dir)
    if about is None:
        about = {
            "format": FORMAT,
            **wanted,
            "cache": str(cache.path.resolve()),
            "threads": computing["threads"],
            "computing": dict(computing),
            **({"start": dict(start)} if start else {}),
            "git_commit": _git_commit(),
            "versions": _versions(),
        }
        _write(run_dir, about)
        return about
    step = checkpoint.newest_step(run_dir / "checkpoints")
    num_photos = len(cache.splits["train"].targets)
    per_epoch = num_photos / min(config.batch_size, num_photos)
    require_same_steps(about, str(run_dir), config, step, per_epoch)
    found = continued(
        about, wanted, computing, str(run_dir), step=step, extend=extend,
        accept_changes=accept_changes,
    )  # fmt: skip
    # The same photos, as the hash says, but prepared in another place or with other file times.
    found["cache"] = str(cache.path.resolve())
    if found != about:
        _write(run_dir, found)
    return found


def _write(run_dir: Path, about: Mapping[str, Any]) -> None:
    write_text(run_dir / "config.json", json.dumps(about, ensure_ascii=False, indent=2))


def write_metrics(run_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Replace `metrics.jsonl`: a line for each epoch so far."""
    lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
    write_text(run_dir / "metrics.jsonl", lines)


def _git_commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        # An image has no repository; it says itself what it was built from.
        return os.environ.get("HANSANG_REVISION", "")
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    import torch
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
