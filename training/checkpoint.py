"""Checkpoints: one safetensors file each, with its state as JSON and a checksum over both.

checkpoints/step-00001234.safetensors     the last two
checkpoints/best.safetensors              a hard link to the end of the best epoch
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from terminal import say
from training.errors import RunError
from training.files import replacing

if TYPE_CHECKING:
    from training.engine import Engine

BEST = "best.safetensors"
_KEPT = 2


class DamagedError(RunError):
    """A checkpoint does not hold what was written to it."""


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        RunError: The disk is full or read-only; the checkpoints before it are as they were.
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
        DamagedError: It is cut off, or a byte of it has changed.
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
    """Return whether no tensor holds NaN or infinity; a device is waited for once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).all())


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:08d}.safetensors"


def newest_good(folder: Path) -> str | None:
    """Return the name of the newest checkpoint that is not damaged; None if there is none at all.

    Those that are damaged are named aloud, and removed.

    Raises:
        RunError: There are some, and all of them are damaged.
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
    # Nothing is removed here: the same command must not begin anew over what is left of a run.
    if damaged:
        raise RunError(f"every checkpoint in {folder} is damaged; start again under another --run")
    return None


def good_until(folder: Path, step: int) -> list[Path]:
    """Return the checkpoints of at most `step` steps that are not damaged."""
    return [path for path in _numbered(folder) if _step(path) <= step and _is_good(path)]


def keep_only(folder: Path, kept: Sequence[Path]) -> None:
    """Forget every other checkpoint, for a run that goes back to make the best one again."""
    # The newest first: a kill in between leaves what a run goes on from.
    for path in reversed(_numbered(folder)):
        if path not in kept:
            path.unlink()


def prune(folder: Path, kept: int = _KEPT) -> None:
    """Remove all but the last two, and what a killed process left half-written."""
    for path in _numbered(folder)[:-kept]:
        path.unlink()
    for path in folder.glob(".tmp-*"):
        path.unlink()


def link_best(folder: Path, step: int) -> None:
    """Make the checkpoint after `step` steps the best one, at once and without a copy."""
    with replacing(folder / BEST) as temporary:
        temporary.unlink(missing_ok=True)
        os.link(path_of(folder, step), temporary)


def tensors_of(engine: "Engine") -> dict[str, Tensor]:
    """Return all that a run resumes from, by name: the model, its average, the optimizer."""
    tensors = {f"model.{name}": value for name, value in engine.model.state_dict().items()}
    if engine.average is not None:
        average = engine.average.state_dict()
        tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, values in engine.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return tensors


def restore(engine: "Engine", tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors back; each keeps the device and layout that its owner has."""
    engine.model.load_state_dict(_part(tensors, "model."))
    if engine.average is not None:
        engine.average.load_state_dict(_part(tensors, "average."))
    parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    groups = engine.optimizer.state_dict()["param_groups"]
    engine.optimizer.load_state_dict({"state": state, "param_groups": groups})


def model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a checkpoint would release, under torchvision's names: the average, if any."""
    return _part(tensors, "average.") or _part(tensors, "model.")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
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
