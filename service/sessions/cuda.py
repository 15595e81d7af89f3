"""Runs of a model on a CUDA device: fixed batch sizes, buffers that stay, and CUDA graphs.

images ─► the next larger size, in pinned memory ─► device ─► one graph launch ─► device ─► rows

A model has several `CudaSession`s, each with a thread and buffers of its own: while one computes,
another copies. onnxruntime keeps captured graphs per thread and identifies them by a number. A
graph is valid only for the addresses and the shape that it was captured with, so every batch size
has its own.

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

SESSIONS_PER_MODEL = 2
"""One computes while the other copies."""

_WARM_RUNS = 3
"""Runs before a capture, which must not allocate. The first run allocates, and the second one
allocates again by the pattern that the first one left."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaOptions:
    """How onnxruntime uses the device.

    The defaults give the answers that the export was checked for. Measure before changing them.
    """

    graphs: bool = True
    """Capture each batch size as a CUDA graph: a run is then one launch instead of a hundred."""

    tf32: bool = False
    """Let fp32 convolutions round their inputs to 10 bits: faster, with other answers."""

    nhwc: bool = False
    """Compute with the channels innermost."""

    search: str = "HEURISTIC"
    """How cuDNN chooses algorithms. EXHAUSTIVE tries more, and may choose differently each time."""

    def provider(self, gpu: int = 0) -> dict[str, str]:
        """Return the options under onnxruntime's names, for a GPU by its number."""
        return {
            "device_id": str(gpu),
            "cudnn_conv_algo_search": self.search,
            "cudnn_conv_use_max_workspace": "1",
            "use_tf32": str(int(self.tf32)),
            "prefer_nhwc": str(int(self.nhwc)),
            "enable_cuda_graph": str(int(self.graphs)),
            # The default doubles the arena for a few bytes more.
            "arena_extend_strategy": "kSameAsRequested",
        }


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the prepared batch sizes, rising; a batch is padded to the next of them.

    >>> sizes_up_to(24)
    (1, 2, 3, 4, 6, 8, 12, 16, 24)
    """
    powers = [2**power for power in range(largest.bit_length())]
    steps = {*powers, *(3 * power // 2 for power in powers if power > 1), largest}
    return tuple(sorted(size for size in steps if size <= largest))


class SharedLock:
    """A lock that many threads may share, or one may hold exclusively.

    While a graph is captured, no other thread of the process may copy to the device, or allocate or
    free memory there. It would break the capture, and its own call as well.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_shared = 0
        self._owner = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Wait until no other thread holds the lock exclusively."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._owner in (0, me))
            self._num_shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_shared -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out, and wait until those inside have left.

        The owner itself may still take `shared`.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._owner)
            self._owner = threading.get_ident()
            self._changed.wait_for(lambda: not self._num_shared)
        try:
            yield
        finally:
            with self._changed:
                self._owner = 0
                self._changed.notify_all()


_device_lock = SharedLock()


class CudaSessions:
    """The sessions of one model on its GPUs, ready for batches of up to `largest` images."""

    def __init__(
        self,
        sessions: list[tuple[ort.InferenceSession, int]],
        input_shape: tuple[int, int, int],
        num_classes: int,
        largest: int,
        *,
        device: str = "cuda",
        graphs: bool = True,
    ) -> None:
        """Prepare every batch size in every session.

        Args:
            sessions: onnxruntime sessions of the same model, each with the number of its GPU.
            input_shape: (S, S, C).
            num_classes: K.
            largest: Most images in a run.
            device: `cuda`; `cpu` does the same without a device, for tests.
            graphs: Whether the sessions were opened with CUDA graphs.

        Raises:
            Exception: Whatever onnxruntime raises.
        """
        self.sizes = sizes_up_to(largest)
        self._free: queue.SimpleQueue[CudaSession] = queue.SimpleQueue()
        for each, gpu in sessions:
            session = CudaSession(each, input_shape, num_classes, self.sizes, device, gpu)
            session.do(session.prepare, graphs)
            self._free.put(session)

    def run(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, (N, K), of at most `largest` images. Waits for a free session."""
        session = self._free.get()
        try:
            rows: NDArray[np.float32] = session.do(session.run, images_NHWC)
        finally:
            self._free.put(session)
        return rows


class BatchBuffers:
    """Device memory for the input and the output of one batch size, bound to a session."""

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        shape: tuple[int, int, int],
        classes: int,
        device: str,
        gpu: int,
    ) -> None:
        allocate = ort.OrtValue.ortvalue_from_shape_and_type
        self.images = allocate([size, *shape], np.uint8, device, gpu)
        self.rows = allocate([size, classes], np.float32, device, gpu)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input("images", self.images)
        self.binding.bind_ortvalue_output("probabilities", self.rows)
        self.options = ort.RunOptions()


class CudaSession:
    """An onnxruntime session with a thread, and with buffers for each batch size."""

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: tuple[int, int, int],
        classes: int,
        sizes: tuple[int, ...],
        device: str = "cuda",
        gpu: int = 0,
    ) -> None:
        """Start the thread. Call `prepare` through `do` before `run`; `sizes` rise."""
        self._session = session
        self._shape = shape
        self._classes = classes
        self._sizes = sizes
        self._device = device
        self._gpu = gpu
        self._buffers: dict[int, BatchBuffers] = {}
        self._staged: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda")

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call `work` in the session's thread: onnxruntime keeps its graphs per thread."""
        return self._thread.submit(work, *arguments).result()

    def __del__(self) -> None:
        # Device memory must not be freed while another thread captures a graph.
        with _device_lock.shared():
            self._buffers.clear()
            self._staged = np.empty(0, np.uint8)
            del self._session

    def prepare(self, graphs: bool) -> None:
        """Allocate and warm up every size; capture it as a CUDA graph if `graphs`."""
        self._staged = pinned((self._sizes[-1], *self._shape), self._device, self._gpu)
        self._staged[:] = 0
        # The largest first: its memory is large enough for the others.
        for size in reversed(self._sizes):
            with _device_lock.shared():
                buffers = BatchBuffers(
                    self._session, size, self._shape, self._classes, self._device, self._gpu
                )
                buffers.images.update_inplace(self._staged[:size])
                if graphs:
                    buffers.options.add_run_config_entry("gpu_graph_id", "-1")
                for _ in range(_WARM_RUNS):
                    self._session.run_with_iobinding(buffers.binding, buffers.options)
            if graphs:
                buffers.options = ort.RunOptions()
                buffers.options.add_run_config_entry("gpu_graph_id", str(size))
                with _device_lock.exclusive():
                    self._session.run_with_iobinding(buffers.binding, buffers.options)
            self._buffers[size] = buffers

    def again(self, size: int) -> None:
        """Run what is in a size's buffers once more: the model alone, without a copy."""
        buffers = self._buffers[size]
        self._session.run_with_iobinding(buffers.binding, buffers.options)

    def run(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, (N, K), of at most as many images as the largest size has."""
        count = len(images_NHWC)
        size = next(size for size in self._sizes if size >= count)
        buffers = self._buffers[size]
        # Old images pad the batch: rows do not depend on each other.
        np.copyto(self._staged[:count], images_NHWC)
        with _device_lock.shared():
            buffers.images.update_inplace(self._staged[:size])
            self._session.run_with_iobinding(buffers.binding, buffers.options)
            # A copy: on a CPU these rows are the buffer itself, which the next run overwrites.
            return np.array(buffers.rows.numpy()[:count])


def pinned(shape: tuple[int, ...], device: str = "cuda", gpu: int = 0) -> NDArray[np.uint8]:
    """Return page-locked memory, which CUDA copies from directly.

    Where there is none, an ordinary array is returned and a warning is logged.
    """
    count = int(np.prod(shape))
    if device != "cuda":
        return np.empty(shape, np.uint8)
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.split('.')[0]}")
        # Else it would begin to use the first GPU.
        runtime.cudaSetDevice(gpu)
        address = ctypes.c_void_p()
        # Flag 1, portable: for every CUDA context of the process.
        error = runtime.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(count), 1)
    except (OSError, AttributeError) as problem:
        logger.warning("no pinned memory, copies will be slower: %s", problem)
        return np.empty(shape, np.uint8)
    if error or address.value is None:
        logger.warning("no pinned memory, copies will be slower: CUDA error %d", error)
        return np.empty(shape, np.uint8)
    buffer = (ctypes.c_uint8 * count).from_address(address.value)
    array: NDArray[np.uint8] = np.frombuffer(memoryview(buffer), np.uint8)
    # Views keep the buffer alive, and the end of the buffer frees the memory.
    weakref.finalize(buffer, runtime.cudaFreeHost, address).atexit = False
    return array.reshape(shape)
