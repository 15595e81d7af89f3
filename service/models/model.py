"""One version of a model in onnxruntime: opened, checked against the contract, warmed up.

docs/reference/model-contract.md: uint8 `images` (N, S, S, 3) → float32 `probabilities` (N, K).

Shapes: N batch, H height, W width, C channels, K classes.
"""

import ctypes
import dataclasses
import logging
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import ModelContractError
from service.models.cuda import SESSIONS_PER_MODEL, CudaOptions, CudaSessions
from service.models.metadata import ModelMetadata
from service.pixels.preprocessing import COMPATIBLE, PREPROCESSING

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
INPUT = "images"
OUTPUT = "probabilities"
_SUM_TOLERANCE = 1e-3
_CUDA_OPTIONS = CudaOptions()

logger = logging.getLogger(__name__)


class Model:
    """A loaded version of a model. Several threads may call `predict` at the same time."""

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        intra_op_threads: int = 1,
        cuda: CudaOptions = _CUDA_OPTIONS,
    ) -> None:
        """Open the file and check it against the contract.

        Args:
            path: The ONNX file.
            device: `cuda` or `cuda:N`, which must compute all of it; `cpu`; or `auto` for CUDA if
                there is a device.
            intra_op_threads: Threads within one call of `predict`.
            cuda: How a CUDA device is used.

        Raises:
            ModelContractError: The file cannot be opened or breaks the contract, or `device` is
                `cuda` and CUDA does not compute all of it.
        """
        self.path = path
        self._cuda_sessions: CudaSessions | None = None
        self._session, self._cuda = _open(path, device, intra_op_threads, cuda)
        self._opened_with = (path, device, intra_op_threads, self._cuda)
        self.provider: str = self._session.get_providers()[0]
        # -1: a run without fixed buffers must not be captured as a graph.
        self._once = ort.RunOptions()
        if self.provider == CUDA:
            self._once.add_run_config_entry("gpu_graph_id", "-1")
        self.properties: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.metadata: ModelMetadata = ModelMetadata.from_props(self.properties)
        self._check()

    def predict(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, float32 of shape (N, K); each row sums to 1."""
        if self._cuda_sessions is None:
            rows_NK: NDArray[np.float32] = self._session.run(
                [OUTPUT], {INPUT: images_NHWC}, self._once
            )[0]
            return rows_NK
        largest = self._cuda_sessions.sizes[-1]
        parts = [images_NHWC[at : at + largest] for at in range(0, len(images_NHWC), largest)]
        rows = [self._cuda_sessions.run(part) for part in parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def probe(self) -> None:
        """Run one image, to check that the session still works.

        Raises:
            ModelContractError: The run raises, or its answer is not probabilities.
        """
        self._try(1)

    def warm_up(self, max_batch: int) -> float:
        """Run the smallest and the largest batch; on CUDA, prepare every batch size first.

        Returns:
            Seconds per image in the largest batch.

        Raises:
            ModelContractError: A run raises, or its answers are not probabilities.
        """
        if self.provider == CUDA:
            self._cuda_sessions = self._opened_on_cuda(max_batch)
        for num_images in sorted({1, max_batch}):
            self._try(num_images)
        # The first run of a size may allocate, so the second one is timed.
        start_s = perf_counter()
        self._try(max_batch)
        return (perf_counter() - start_s) / max_batch

    def _opened_on_cuda(self, max_batch: int) -> CudaSessions:
        """Return the sessions for CUDA, which take over the one that checked the file."""
        size, num_classes = self.metadata.image_size, len(self.metadata.labels)
        # Only `CudaSession` may hold it now: it frees device memory under a lock.
        first = vars(self).pop("_session", None)
        try:
            return CudaSessions(
                [
                    first or _open(*self._opened_with)[0],
                    *(_open(*self._opened_with)[0] for _ in range(SESSIONS_PER_MODEL - 1)),
                ],
                (size, size, 3),
                num_classes,
                max_batch,
                index=_gpu(self._opened_with[1]),
                graphs=self._cuda.graphs,
            )
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ModelContractError(f"{self.path}: warm-up on CUDA failed: {error}") from error

    def _try(self, num_images: int) -> None:
        """Run random images, and check that the rows are probabilities."""
        size, num_classes = self.metadata.image_size, len(self.metadata.labels)
        random = np.random.default_rng(0)
        images_NHWC = random.integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)
        try:
            rows_NK = self.predict(images_NHWC)
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ModelContractError(
                f"{self.path}: warm-up with {num_images} images failed: {error}"
            ) from error
        if rows_NK.shape != (num_images, num_classes):
            raise ModelContractError(
                f"{self.path}: warm-up gave shape {rows_NK.shape}, not {(num_images, num_classes)}"
            )
        # Written so that NaN fails.
        if not (rows_NK.min() >= 0 and np.abs(rows_NK.sum(1) - 1).max() <= _SUM_TOLERANCE):
            raise ModelContractError(
                f"{self.path}: warm-up gave no probabilities: rows do not sum to 1"
            )

    def _check(self) -> None:
        """Compare inputs, outputs and preprocessing with the contract."""
        size, num_classes = self.metadata.image_size, len(self.metadata.labels)
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = {node.name: node for node in self._session.get_outputs()}
        if list(inputs) != [INPUT] or OUTPUT not in outputs:
            raise ModelContractError(
                f"{self.path}: input {list(inputs)} and output {list(outputs)},"
                f" where the contract has [{INPUT!r}] and [{OUTPUT!r}]"
            )
        source, result = inputs[INPUT], outputs[OUTPUT]
        if source.type != "tensor(uint8)" or list(source.shape[1:]) != [size, size, 3]:
            raise ModelContractError(
                f"{self.path}: {INPUT} is {source.type} {source.shape},"
                f" where the contract has tensor(uint8) [N, {size}, {size}, 3]"
            )
        if isinstance(source.shape[0], int):
            raise ModelContractError(f"{self.path}: the batch is fixed at {source.shape[0]}")
        if result.type != "tensor(float)" or len(result.shape) != 2:
            raise ModelContractError(
                f"{self.path}: {OUTPUT} is {result.type} {result.shape},"
                f" where the contract has tensor(float) [N, {num_classes}]"
            )
        if isinstance(result.shape[1], int) and result.shape[1] != num_classes:
            raise ModelContractError(
                f"{self.path}: {num_classes} labels for {result.shape[1]} outputs"
            )
        if self.metadata.resize not in COMPATIBLE:
            raise ModelContractError(
                f"{self.path}: made for pixels by {self.metadata.resize!r}, and this server makes"
                f" them by {PREPROCESSING!r}; release the run again"
            )


def _open(
    path: Path, device: str, intra_op_threads: int, cuda: CudaOptions
) -> tuple[ort.InferenceSession, CudaOptions]:
    """Return a session and its options; `graphs` is off where CUDA cannot capture this model."""
    wanted = _provider(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # Threads that spin while waiting cost three quarters of the throughput on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[object] = [CPU]
    alone = device.startswith("cuda")
    if wanted == CUDA:
        providers = [(CUDA, cuda.provider(_gpu(device))), *[CPU] * (not alone)]
    if alone:
        # onnxruntime falls back to the CPU, node by node, without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(
            path, options, providers=providers, enable_fallback=int(not alone)
        )
    except Exception as error:  # onnxruntime has no common base of its errors
        if wanted == CUDA and cuda.graphs:
            logger.warning("%s: no CUDA graphs, %s", path, error)
            return _open(path, device, intra_op_threads, dataclasses.replace(cuda, graphs=False))
        advice = (
            f"; on {device} the GPU must compute all of it: install onnxruntime-gpu[cuda,cudnn] if"
            " CUDA's libraries are missing, or use --device auto"
        )
        raise ModelContractError(
            f"{path}: onnxruntime cannot open it: {error}{advice * alone}"
        ) from error
    # onnxruntime falls back to the CPU with only a warning.
    if session.get_providers()[0] != wanted:
        if alone:
            raise ModelContractError(
                f"device {device}: CUDA's or cuDNN's libraries cannot be loaded; install"
                " onnxruntime-gpu[cuda,cudnn], or use --device cpu"
            )
        logger.warning("device auto: CUDA's libraries cannot be loaded; serving on the CPU")
    return session, cuda


def _provider(device: str) -> str:
    if device == "cpu":
        return CPU
    gpus = _num_cuda_devices() if CUDA in ort.get_available_providers() else 0
    if gpus > _gpu(device):
        ort.preload_dlls()
        return CUDA
    if gpus:
        raise ModelContractError(
            f"device {device}: this machine has {gpus} GPUs, cuda:0 to cuda:{gpus - 1}"
        )
    if device.startswith("cuda"):
        raise ModelContractError(
            f"device {device}: no NVIDIA driver with a GPU is found on this machine,"
            " or this onnxruntime is built without CUDA; use --device cpu"
        )
    logger.info("device auto: no CUDA device is found; serving on the CPU")
    return CPU


def _gpu(device: str) -> int:
    """Return the index of the GPU that a device such as `cuda:1` names; the first one is 0."""
    return int(device.partition(":")[2] or 0)


def _num_cuda_devices() -> int:
    """Ask the driver directly: loading CUDA's libraries just to find no GPU takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
