"""The output of frozen parts on every photo, kept on the disk: made once, read in every epoch.

<caches>/features/<dataset cache>-<split>-<key>.npy     float32 [V x N, ...], view by view

The key is a hash of all that decides the values: the frozen weights, the photos, the views. So runs
that freeze the same parts share a file, and a resumed run finds its own. A file is absent or
complete. The least recently used ones are removed when all together exceed `MOST_BYTES`.

Shapes: N photos, V views, B batch, C side of the cached square, S side of the model's square.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.pixels.preprocessing import centre_crop
from training.config import AugmentConfig
from training.data.augment_parameters import AugmentParameters, sample_parameters
from training.data.augmentation import augment
from training.data.cache import DatasetCache, Split
from training.files import replacing
from training.model.resnet import Normalise
from training.model.stages import split as split_model

MOST_BYTES = 8 * 2**30
"""Of all features together. Features that would not fit are computed at each step instead."""

_BATCH = 64
_SEED = 0
"""Of the views; the same for every seed of a run, so that seeds share their features."""


def view_parameters(num_photos: int, views: int, config: AugmentConfig) -> AugmentParameters:
    """Return the augmentation of each photo in each view, (V x N), view by view."""
    made = [sample_parameters(num_photos, config, seed=_SEED, step=view) for view in range(views)]
    return AugmentParameters(
        torch.cat([of.uniform for of in made]),
        torch.cat([of.share for of in made]),
        torch.cat([of.cut for of in made]),
        torch.cat([of.corner for of in made]),
    )


def cached_features(
    cache: DatasetCache, split: str, model: nn.Module, frozen: int, *, image_size: int,
    views: int = 0, size: int = 0, config: AugmentConfig | None = None, bf16: bool = False,
    after_batch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Split | None:  # fmt: skip
    """Return the output of a model's first `frozen` parts on a split, from the disk if it is there.

    Args:
        cache: The photos; features lie beside it.
        split: The name of the split.
        model: A ResNet18.
        frozen: How many parts from the first.
        image_size: The side that is validated at, in pixels.
        views: Augmented views of each photo; 0 takes the centre of each, as in validation.
        size: The side of the views, in pixels.
        config: The augmentation of the views.
        bf16: Compute in bf16, as a training step would, instead of fp32.
        after_batch: Is called with (photos done, photos in all).

    Returns:
        Features instead of images, (V x N, ...) with their targets; None without room for them.
    """
    photos = cache.splits[split]
    if config and views:
        photos = photos.to_learn_from(config)
    frozen_model = split_model(model, frozen)[0]
    weights = dict(frozen_model.state_dict())
    device = next(frozen_model.parameters()).device
    decides = [
        cache.dataset_hash, split, image_size, views, size, device.type, bf16,
        # Sums on a CPU depend on the number of threads.
        torch.get_num_threads() if device.type == "cpu" else 0,
        asdict(config) if config and views else None,
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    key.update(digest(weights).encode())
    folder = cache.path.parent / "features"
    path = folder / f"{cache.path.name}-{split}-{key.hexdigest()[:16]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # One builder at a time; the system releases the lock of a killed one.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            parameters = None
            if config and views:
                parameters = view_parameters(len(photos.targets), views, config)
            batches = _outputs(
                frozen_model.eval(), photos, image_size, size, config, parameters, bf16
            )
            first = next(batches)
            total = max(views, 1) * len(photos.targets)
            if not _free_space(folder, first[0].nbytes * total):
                return None
            _write(path, first, batches, total, after_batch)
        os.utime(path)
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    return Split(features, np.tile(photos.targets, max(views, 1)), photos.files)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: names, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@torch.no_grad()
def _outputs(
    frozen: nn.Module,
    photos: Split,
    image_size: int,
    size: int,
    config: AugmentConfig | None,
    parameters: AugmentParameters | None,
    bf16: bool,
) -> Iterator[np.ndarray]:
    """Yield the output batch by batch; a batch has photos of one view only."""
    device = next(frozen.parameters()).device
    normalise = Normalise().to(device)
    num_photos = len(photos.targets)
    augmented = torch.tensor(config.classes if config else (), dtype=torch.int64)
    for view in range(1 if parameters is None else len(parameters.share) // num_photos):
        for start in range(0, num_photos, _BATCH):
            stop = min(start + _BATCH, num_photos)
            images = torch.from_numpy(np.array(photos.images[start:stop])).to(device)
            if parameters is None or config is None:
                pixels = centre_crop(images, image_size).permute(0, 3, 1, 2).float()  # type: ignore
            else:
                rows = slice(view * num_photos + start, view * num_photos + stop)
                targets = torch.from_numpy(photos.targets[start:stop]).to(device)
                chosen = torch.isin(targets, augmented.to(device)) if config.classes else None
                pixels, _ = augment(
                    images, size, image_size, config, parameters[rows], chosen=chosen
                )
            inputs = normalise(pixels).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                outputs = frozen(inputs)
            yield outputs.float().contiguous().cpu().numpy()


def _write(
    path: Path,
    first: np.ndarray,
    batches: Iterator[np.ndarray],
    total: int,
    after_batch: Callable[[int, int], None],
) -> None:
    # Written from front to back. A mapped file on a full disk would kill the process by SIGBUS;
    # a write raises an error.
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (total, *first.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        batch: np.ndarray | None = first
        while batch is not None:
            file.write(batch.astype("<f4", copy=False).tobytes())
            done += len(batch)
            after_batch(done, total)
            batch = next(batches, None)


def _free_space(folder: Path, num_bytes: int) -> bool:
    """Remove the least recently used features until so many bytes fit; return whether they do."""
    if num_bytes > MOST_BYTES:
        return False
    # A removed file stays readable to a run that has mapped it.
    files = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
    taken = sum(path.stat().st_size for path in files)
    while files and (
        taken + num_bytes > MOST_BYTES or shutil.disk_usage(folder).free < 2 * num_bytes
    ):
        taken -= files[0].stat().st_size
        files.pop(0).unlink()
    return shutil.disk_usage(folder).free > num_bytes
