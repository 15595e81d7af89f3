"""Runs of a model on a CUDA device: fixed sizes, buffers that stay, and CUDA graphs.

images ─► the next larger size, in pinned memory ─► device ─► one graph launch ─► device ─► rows

A lane is a session with a thread and buffers of its own: while one computes, another copies.
onnxruntime keeps captured graphs by thread and knows them by a number; each is valid for the very
addresses and the one shape that it was captured with, so every size has its own.

Shapes: N batch, S side, C channels, K classes.
"""

import ctypes
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

LANES = 2
"""Lanes of a model: one computes while the other copies."""

_WARM_RUNS = 3
"""Runs before a capture, in which nothing may be allocated any more: the first one allocates, the
second one again by the pattern that the first one left."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaOptions:
    """How onnxruntime uses the device.

    The defaults give the answers that the export was checked for; the others are to be measured.
    """

    graphs: bool = True
    """Capture each size as a CUDA graph: a run is one launch instead of a hundred."""

    tf32: bool = False
    """Let fp32 convolutions round their inputs to 10 bits: faster, and other answers."""

    nhwc: bool = False
    """Compute with the channels innermost."""

    search: str = "HEURISTIC"
    """How cuDNN chooses: EXHAUSTIVE looks further, and may choose another way the next time."""

    def provider(self) -> dict[str, str]:
        """Return them as onnxruntime names them."""
        return {
            "cudnn_conv_algo_search": self.search,
            "cudnn_conv_use_max_workspace": "1",
            "use_tf32": str(int(self.tf32)),
            "prefer_nhwc": str(int(self.nhwc)),
            "enable_cuda_graph": str(int(self.graphs)),
            # The arena would double otherwise, for a few bytes more.
            "arena_extend_strategy": "kSameAsRequested",
        }


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes that are made ready: a batch is filled up to the next of them.

    >>> sizes_up_to(24)
    (1, 2, 3, 4, 6, 8, 12, 16, 24)
    """
    powers = [2**power for power in range(largest.bit_length())]
    steps = {*powers, *(3 * power // 2 for power in powers if power > 1), largest}
    return tuple(sorted(size for size in steps if size <= largest))


class Gate:
    """Lets many through together, or one alone.

    While a graph is captured no other thread of the process may copy to the device, or allocate or
    free there: that would break the capture, and the call that did it.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._inside = 0
        self._alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait while another thread is alone."""
        me = threading.get_ident()
        with self._free:
            self._free.wait_for(lambda: self._alone in (0, me))
            self._inside += 1
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is inside, and keep everybody out."""
        with self._free:
            self._free.wait_for(lambda: not self._alone)
            self._alone = threading.get_ident()
            self._free.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._free:
                self._alone = 0
                self._free.notify_all()


_gate = Gate()


class Lanes:
    """The sessions of a model on a device, ready for batches of up to `largest` images."""

    def __init__(
        self,
        sessions: list[ort.InferenceSession],
        input_shape: tuple[int, int, int],
        num_classes: int,
        largest: int,
        *,
        device: str = "cuda",
        graphs: bool = True,
    ) -> None:
        """Make every size ready in every lane.

        Args:
            sessions: One a lane, of the same model.
            input_shape: (S, S, C).
            num_classes: K.
            largest: Most images in a run.
            device: `cuda`; `cpu` does the same without a device.
            graphs: Whether the sessions were opened with CUDA graphs.

        Raises:
            Exception: Whatever onnxruntime raises.
        """
        self.sizes = sizes_up_to(largest)
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for session in sessions:
            lane = Lane(session, input_shape, num_classes, self.sizes, device)
            lane.do(lane.prepare, graphs)
            self._free.put(lane)

    def run(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, (N, K), of at most `largest` images. Waits for a free lane."""
        lane = self._free.get()
        try:
            rows: NDArray[np.float32] = lane.do(lane.run, images_NHWC)
        finally:
            self._free.put(lane)
        return rows


class Place:
    """The buffers of one batch size in one lane."""

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        shape: tuple[int, int, int],
        classes: int,
        device: str,
    ) -> None:
        made = ort.OrtValue.ortvalue_from_shape_and_type
        self.images = made([size, *shape], np.uint8, device, 0)
        self.rows = made([size, classes], np.float32, device, 0)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input("images", self.images)
        self.binding.bind_ortvalue_output("probabilities", self.rows)
        self.options = ort.RunOptions()


class Lane:
    """A session, its thread, and the places of each size."""

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: tuple[int, int, int],
        classes: int,
        sizes: tuple[int, ...],
        device: str = "cuda",
    ) -> None:
        """Start the thread; `prepare` makes the sizes (rising) ready, in it."""
        self._session = session
        self._shape = shape
        self._classes = classes
        self._sizes = sizes
        self._device = device
        self._ready: dict[int, Place] = {}
        self._staged: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda")

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do it in the lane's thread: onnxruntime finds its graphs there alone."""
        return self._thread.submit(work, *arguments).result()

    def __del__(self) -> None:
        # What is freed on the device is freed while nobody captures.
        with _gate.together():
            self._ready.clear()
            self._staged = np.empty(0, np.uint8)
            del self._session

    def prepare(self, graphs: bool) -> None:
        """Make every size ready, as a CUDA graph where the session was opened for them."""
        self._staged = pinned((self._sizes[-1], *self._shape), self._device)
        self._staged[:] = 0
        # The largest first: the others find memory that is large enough.
        for size in reversed(self._sizes):
            with _gate.together():
                place = Place(self._session, size, self._shape, self._classes, self._device)
                place.images.update_inplace(self._staged[:size])
                if graphs:
                    place.options.add_run_config_entry("gpu_graph_id", "-1")
                for _ in range(_WARM_RUNS):
                    self._session.run_with_iobinding(place.binding, place.options)
            if graphs:
                place.options = ort.RunOptions()
                place.options.add_run_config_entry("gpu_graph_id", str(size))
                with _gate.alone():
                    self._session.run_with_iobinding(place.binding, place.options)
            self._ready[size] = place

    def again(self, size: int) -> None:
        """Run what lies in a size's place once more: the model alone, without a copy."""
        place = self._ready[size]
        self._session.run_with_iobinding(place.binding, place.options)

    def run(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, (N, K), of at most as many images as the largest size has."""
        count = len(images_NHWC)
        size = next(size for size in self._sizes if size >= count)
        place = self._ready[size]
        # What fills the batch up is what lay there before: no row looks at another.
        np.copyto(self._staged[:count], images_NHWC)
        with _gate.together():
            place.images.update_inplace(self._staged[:size])
            self._session.run_with_iobinding(place.binding, place.options)
            # On a CPU they are the buffer itself, which the next run overwrites.
            return np.array(place.rows.numpy()[:count])


def pinned(shape: tuple[int, ...], device: str = "cuda") -> NDArray[np.uint8]:
    """Return an array that CUDA copies from directly; an ordinary one where that cannot be had."""
    count = int(np.prod(shape))
    if device != "cuda":
        return np.empty(shape, np.uint8)
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.split('.')[0]}")
        place = ctypes.c_void_p()
        # Portable: of every context of the process.
        error = runtime.cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(count), 1)
    except (OSError, AttributeError) as problem:
        logger.warning("no pinned memory, copies will be slower: %s", problem)
        return np.empty(shape, np.uint8)
    if error or place.value is None:
        logger.warning("no pinned memory, copies will be slower: CUDA error %d", error)
        return np.empty(shape, np.uint8)
    buffer = (ctypes.c_uint8 * count).from_address(place.value)
    array: NDArray[np.uint8] = np.frombuffer(memoryview(buffer), np.uint8)
    # Views keep the buffer alive, and the buffer's end frees the memory.
    weakref.finalize(buffer, runtime.cudaFreeHost, place).atexit = False
    return array.reshape(shape)
