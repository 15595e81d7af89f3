"""Where the photos lie while a model learns, and how batches get to the device.

memory-mapped   on a CPU: rows are read from the page cache, one batch ahead
resident        on CUDA, where the photos fit: a batch is an index, and nothing is copied
pinned          on CUDA, where they do not: read one batch ahead, copied on a second stream

No worker processes: the cache holds decoded pixels, and augmentation is the device's work.

Shapes: B batch, C side of the cached square.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.cache import Split
from training.errors import ConfigError

Placement = Literal["auto", "resident", "pinned", "memory-mapped"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
Batch = tuple[Tensor, Tensor]
_RESIDENT_SHARE = 0.5
"""Share of a device's free memory that photos may take; the rest is the model's."""
_IN_FLIGHT = 2
"""Batches that the device may still compute on while the next one is read."""


def placement_of(name: str) -> Placement:
    """Return a placement by name.

    Raises:
        ConfigError: There is no such placement; the message lists those that there are.
    """
    for known in PLACEMENTS:
        if name == known:
            return known
    raise ConfigError(f"placement must be one of {', '.join(PLACEMENTS)}, not {name!r}")


class Loader(Protocol):
    """A split that gives batches on a device."""

    num_photos: int
    description: str
    """Where the photos lie and how they get to the device, in words."""
    waited_s: float
    """Seconds spent in waiting for batches, in all."""

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        """Yield a batch for each array of rows: uint8 (B, C, C, 3) and int64 targets (B,).

        Of a split of cached features, float32 features instead of pixels.
        """


def loader_for(split: Split, device: torch.device, placement: Placement = "auto") -> Loader:
    """Return the loader that suits the split's size and the device.

    Raises:
        ConfigError: The device cannot have this placement.
    """
    if device.type == "cpu":
        if placement not in ("auto", "memory-mapped"):
            raise ConfigError(f"placement {placement} needs a CUDA device; use memory-mapped")
        return _PrefetchingLoader(split, device)
    free, _ = torch.cuda.mem_get_info(device)
    fits = split.images.nbytes < _RESIDENT_SHARE * free
    if placement == "memory-mapped":
        raise ConfigError("placement memory-mapped is a CPU's; use pinned or resident with CUDA")
    if placement == "resident" or (placement == "auto" and fits):
        return _shared.get((id(split.images), device)) or _ResidentLoader(split, device)
    return _PrefetchingLoader(split, device)


def resident_bytes(split: Split, device: torch.device) -> int:
    """Return the bytes of device memory that placement `auto` gives a split; 0 if none."""
    if device.type == "cpu":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return split.images.nbytes if split.images.nbytes < _RESIDENT_SHARE * free else 0


def to_device(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a CPU tensor on the device, copied in the order of the device's work, without waiting.

    CUDA would wait for a copy from memory that is not pinned. torch's allocator keeps the pinned
    copy until the device has read it.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


_shared: dict[tuple[int, torch.device], "_ResidentLoader"] = {}


@contextmanager
def sharing(splits: Iterable[Split], device: torch.device) -> Iterator[None]:
    """Let all runs in the block use one resident copy of these photos, where the device has room.

    For searches, which train one run after another on the same photos.
    """
    for split in splits:
        loader = loader_for(split, device)
        if isinstance(loader, _ResidentLoader):
            _shared[id(split.images), device] = loader
    try:
        yield
    finally:
        _shared.clear()


def _size(split: Split) -> str:
    return f"{len(split.targets):,} photos ({split.images.nbytes / 2**20:,.0f} MiB)"


class _ResidentLoader:
    """Holds the whole split in the device's memory."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.num_photos = len(split.targets)
        self.description = f"{_size(split)} resident on {torch.cuda.get_device_name(device)}"
        self.waited_s = 0.0
        self._device = device
        # Photos are uint8, cached features float32.
        dtype = torch.from_numpy(np.empty(0, split.images.dtype)).dtype
        self._images = torch.empty(split.images.shape, dtype=dtype, device=device)
        # In parts: a copy of the whole array would hold it in host memory a second time.
        for start in range(0, len(split.targets), 1024):
            # A copy: torch warns of arrays that cannot be written to, such as mapped files.
            part = np.array(split.images[start : start + 1024])
            self._images[start : start + 1024] = torch.from_numpy(part).to(device)
        self._targets = torch.from_numpy(split.targets).to(device)

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        for chosen in rows:
            started_s = time.perf_counter()
            index = to_device(self._device, torch.from_numpy(chosen))
            batch = self._images[index], self._targets[index]
            self.waited_s += time.perf_counter() - started_s
            yield batch


class _PrefetchingLoader:
    """Reads the next batch in a thread, and on CUDA copies it on a stream of its own."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.num_photos = len(split.targets)
        self._cuda = device.type == "cuda"
        how = "pinned and copied one batch ahead" if self._cuda else "memory-mapped"
        self.description = f"{_size(split)} {how}"
        self.waited_s = 0.0
        self._split = split
        self._device = device
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        todo = iter(rows)
        consumed: deque[torch.cuda.Event] = deque()
        with ThreadPoolExecutor(1, "read") as reader:
            chosen = next(todo, None)
            coming = None if chosen is None else reader.submit(self._read, chosen)
            while coming is not None:
                started_s = time.perf_counter()
                batch = coming.result()
                if self._stream is not None:
                    # Before the next copy begins, which this batch need not wait for.
                    computing = torch.cuda.current_stream(self._device)
                    computing.wait_stream(self._stream)
                    for tensor in batch:
                        tensor.record_stream(computing)
                chosen = next(todo, None)
                coming = None if chosen is None else reader.submit(self._read, chosen)
                self.waited_s += time.perf_counter() - started_s
                yield batch
                if self._stream is not None:
                    # Nothing else waits for the device, so a reader that is faster than the model
                    # would fill its memory with batches.
                    consumed.append(computing.record_event())
                    if len(consumed) > _IN_FLIGHT:
                        consumed.popleft().synchronize()

    def _read(self, rows: NDArray[np.int64]) -> Batch:
        images = torch.from_numpy(self._split.images[rows])
        targets = torch.from_numpy(self._split.targets[rows])
        if self._stream is None:
            return images, targets
        with torch.cuda.stream(self._stream):
            return to_device(self._device, images), to_device(self._device, targets)
