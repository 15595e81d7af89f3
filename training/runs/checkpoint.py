"""Checkpoints: one safetensors file each, with its state as JSON and a checksum over both.

checkpoints/step-00001234.safetensors     the last two
checkpoints/best.safetensors              a hard link to the end of the best epoch
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from terminal import say
from training.errors import RunError
from training.files import replacing

BEST = "best.safetensors"
_KEPT = 2


class DamagedError(RunError):
    """A checkpoint does not hold what was written to it."""


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; `path` has all of it or does not exist.

    Raises:
        RunError: The disk is full or read-only; earlier checkpoints are untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    metadata = {"state": text, "sha256": _digest(tensors, text)}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write the checkpoint {path}: {error}; free some space or mend the folder, and"
            " run the same command again: it goes on from the last checkpoint"
        ) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint and verify its checksum.

    Raises:
        DamagedError: The file is missing, cut off, or a byte of it has changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["state"]
        if metadata["sha256"] != _digest(tensors, text):
            raise DamagedError(f"{path} is damaged: its checksum does not match")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    return tensors, json.loads(text)


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether no tensor holds NaN or infinity; waits for the device only once."""
    # The least and the greatest value tell of both, in a twelfth of the time of a look at each.
    extremes = [end.double() for tensor in tensors.values() for end in torch.aminmax(tensor)]
    return bool(torch.stack(extremes).isfinite().all())


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:08d}.safetensors"


def newest_step(folder: Path) -> int:
    """Return the steps of the newest checkpoint, which may be damaged; 0 if there are none."""
    return max(map(_step, _numbered(folder)), default=0)


def newest_good(folder: Path) -> str | None:
    """Return the name of the newest checkpoint that is not damaged; None if there are none.

    Damaged ones after it are removed, with a warning for each.

    Raises:
        RunError: There are checkpoints, and all of them are damaged.
    """
    damaged = []
    for path in reversed(_numbered(folder)):
        try:
            load(path)
        except DamagedError as error:
            say(f"warning: {error}; going back to the one before")
            damaged.append(path)
            continue
        for bad in damaged:
            bad.unlink()
        return path.name
    # Nothing is removed here, or the same command would begin a new run over this one.
    if damaged:
        raise RunError(f"every checkpoint in {folder} is damaged; start again under another --run")
    return None


def good_until(folder: Path, step: int) -> list[Path]:
    """Return the checkpoints of at most `step` steps that are not damaged."""
    return [path for path in _numbered(folder) if _step(path) <= step and _is_good(path)]


def keep_only(folder: Path, kept: Sequence[Path]) -> None:
    """Remove every other checkpoint, for a run that goes back to make the best one again."""
    # The newest first, so that a kill in between leaves the ones to continue from.
    for path in reversed(_numbered(folder)):
        if path not in kept:
            path.unlink()


def prune(folder: Path, kept: int = _KEPT) -> None:
    """Remove all but the last `kept` checkpoints, and files that a killed process half wrote."""
    for path in _numbered(folder)[:-kept]:
        path.unlink()
    for path in folder.glob(".tmp-*"):
        path.unlink()


def link_best(folder: Path, step: int) -> None:
    """Make the checkpoint after `step` steps the best one, by a hard link."""
    with replacing(folder / BEST) as temporary:
        os.link(path_of(folder, step), temporary)


def model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the released weights of a checkpoint by torchvision's names: the average, if any."""
    return part(tensors, "average.") or part(tensors, "model.")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _is_good(path: Path) -> bool:
    try:
        load(path)
    except DamagedError:
        return False
    return True


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
