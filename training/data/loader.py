"""Where the photos lie while a model learns, and how a batch gets to the device.

memory-mapped   on a CPU: rows are read from the page cache, one batch ahead
resident        on a CUDA device that has room: a batch is an index, nothing is copied
pinned          on one that has not: read one batch ahead, copied on a second stream

Shapes: B batch, C side of the cached square.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
_ROOM = 0.5
"""Share of a device's free memory that photos may take; the rest is the model's."""
_UNDER_WAY = 2
"""Batches that the device may still be at work on, while the next one is read."""


def placement_of(name: str) -> Placement:
    """Return a placement by name.

    Raises:
        ConfigError: There is none; those that there are, are listed.
    """
    for known in PLACEMENTS:
        if name == known:
            return known
    raise ConfigError(f"placement must be one of {', '.join(PLACEMENTS)}, not {name!r}")


class Feed(Protocol):
    """A split, ready to give batches on a device."""

    num_photos: int
    description: str
    """Where the photos lie and why, in words."""
    waited_s: float
    """Time spent in waiting for batches, in all."""

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        """Yield uint8 (B, C, C, 3) and int64 (B) on the device for each list of rows."""


def feed_for(split: Split, device: torch.device, placement: Placement = "auto") -> Feed:
    """Return the feed that suits the split's size and the device.

    Raises:
        ConfigError: The placement asked for is not possible.
    """
    if device.type == "cpu":
        if placement not in ("auto", "memory-mapped"):
            raise ConfigError(f"placement {placement} needs a CUDA device; use memory-mapped")
        return _Ahead(split, device)
    free, _ = torch.cuda.mem_get_info(device)
    fits = split.images.nbytes < _ROOM * free
    if placement == "memory-mapped":
        raise ConfigError("placement memory-mapped is a CPU's; use pinned or resident with CUDA")
    if placement == "resident" or (placement == "auto" and fits):
        return _shared.get((id(split), device)) or _Resident(split, device)
    return _Ahead(split, device)


def resident_bytes(split: Split, device: torch.device) -> int:
    """Return what a split will take of the device's memory, if it is placed by itself."""
    if device.type == "cpu":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return split.images.nbytes if split.images.nbytes < _ROOM * free else 0


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a CPU tensor on the device, copied in turn with the device's work.

    From memory that is not pinned CUDA copies only what is small without waiting. The pinned copy
    is kept until the device has read it, by torch's own allocator.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


_shared: dict[tuple[int, torch.device], "_Resident"] = {}


@contextmanager
def sharing(splits: Mapping[str, Split], device: torch.device) -> Iterator[None]:
    """Let all runs of this process have one resident copy, where the device has room for it."""
    for name in ("train", "val"):
        feed = feed_for(splits[name], device)
        if isinstance(feed, _Resident):
            _shared[id(splits[name]), device] = feed
    try:
        yield
    finally:
        _shared.clear()


def _size(split: Split) -> str:
    return f"{len(split.targets):,} photos ({split.images.nbytes / 2**20:,.0f} MiB)"


class _Resident:
    def __init__(self, split: Split, device: torch.device) -> None:
        self.num_photos = len(split.targets)
        self.description = f"{_size(split)} resident on {torch.cuda.get_device_name(device)}"
        self.waited_s = 0.0
        self._device = device
        # Photos are uint8, and features of them float32.
        kind = torch.from_numpy(np.empty(0, split.images.dtype)).dtype
        self._images = torch.empty(split.images.shape, dtype=kind, device=device)
        # In parts: a whole copy in host memory would hold the array twice.
        for start in range(0, len(split.targets), 1024):
            # A copy: torch warns of arrays that cannot be written to, as mapped files are.
            part = np.array(split.images[start : start + 1024])
            self._images[start : start + 1024] = torch.from_numpy(part).to(device)
        self._targets = torch.from_numpy(split.targets).to(device)

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        for chosen in rows:
            started_s = time.perf_counter()
            index = onto(self._device, torch.from_numpy(chosen))
            batch = self._images[index], self._targets[index]
            self.waited_s += time.perf_counter() - started_s
            yield batch


class _Ahead:
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
                    here = torch.cuda.current_stream(self._device)
                    here.wait_stream(self._stream)
                    for tensor in batch:
                        tensor.record_stream(here)
                chosen = next(todo, None)
                coming = None if chosen is None else reader.submit(self._read, chosen)
                self.waited_s += time.perf_counter() - started_s
                yield batch
                if self._stream is not None:
                    # Reading may be faster than learning, and nothing else waits for the device:
                    # batches that lie ready would fill it. So no more than a few are under way.
                    consumed.append(here.record_event())
                    if len(consumed) > _UNDER_WAY:
                        consumed.popleft().synchronize()

    def _read(self, rows: NDArray[np.int64]) -> Batch:
        images = torch.from_numpy(self._split.images[rows])
        targets = torch.from_numpy(self._split.targets[rows])
        if self._stream is None:
            return images, targets
        with torch.cuda.stream(self._stream):
            return onto(self._device, images), onto(self._device, targets)
