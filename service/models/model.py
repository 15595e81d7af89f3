"""One version of a model in onnxruntime: opened, checked against the contract, warmed up.

docs/reference/model-contract.md: uint8 `images` (N, S, S, 3) → float32 `probabilities` (N, K).

Shapes: N batch, H height, W width, C channels, K classes.
"""

from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.devices import gpus_of
from service.errors import ModelContractError
from service.models.metadata import ModelMetadata
from service.pixels.preprocessing import COMPATIBLE, PREPROCESSING
from service.sessions.cpu_engine import CpuOptions, choose
from service.sessions.cuda import SESSIONS_PER_MODEL, CudaOptions, CudaSessions
from service.sessions.opening import CPU, CUDA, TENSORRT, open_session
from service.sessions.openvino import OPENVINO

INPUT = "images"
OUTPUT = "probabilities"
_SUM_TOLERANCE = 1e-3
_APART = 3e-2
"""How far a probability may be from the CPU's: what fp16 may do, as in the export's check."""
_COMPARED = 8
"""Images that are compared."""
_CUDA_OPTIONS = CudaOptions()
_CPU_OPTIONS = CpuOptions()


class Model:
    """A loaded version of a model. Several threads may call `predict` at the same time."""

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        intra_op_threads: int = 1,
        cuda: CudaOptions = _CUDA_OPTIONS,
        cpu: CpuOptions = _CPU_OPTIONS,
    ) -> None:
        """Open the file and check it against the contract.

        Args:
            path: The ONNX file.
            device: As `ServerConfig.device`: `cpu`, `cuda:0,cuda:1`, …
            intra_op_threads: Threads within one call of `predict`.
            cuda: How a CUDA device is used.
            cpu: How a CPU computes; its engine is chosen by `warm_up`.

        Raises:
            ModelContractError: The file cannot be opened or breaks the contract, or the device
                that was asked for does not work.
        """
        self.path = path
        self._cuda_sessions: CudaSessions | None = None
        self._device, self._threads, self._cpu = device, intra_op_threads, cpu
        self._session, self._cuda = self._open(next(iter(gpus_of(device)), 0), cuda)
        self.provider: str = self._session.get_providers()[0]
        # -1: a run without fixed buffers must not be captured as a graph.
        self._once = ort.RunOptions()
        if self.provider == CUDA:
            self._once.add_run_config_entry("gpu_graph_id", "-1")
        self.properties: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.metadata: ModelMetadata = ModelMetadata.from_props(self.properties)
        self.precision: str = self.properties.get("precision", "fp32")
        """What it computes in: `fp32`, `fp16`, `int8`, or `bf16`."""
        self._check()

    @property
    def runs(self) -> int:
        """Runs at a time that keep its GPUs busy; 0 on a CPU, where that depends on its cores."""
        if self.provider == CUDA:
            return SESSIONS_PER_MODEL * len(gpus_of(self._device))
        return SESSIONS_PER_MODEL if self.provider == TENSORRT else 0

    def _open(self, gpu: int, cuda: CudaOptions) -> tuple[ort.InferenceSession, CudaOptions]:
        return open_session(self.path, self._device, gpu, self._threads, cuda)

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

        On a CPU, choose the engine first. If it is OpenVINO, its answers were compared with the
        stored ones.

        Returns:
            Seconds per image in the largest batch.

        Raises:
            ModelContractError: A run raises, or its answers are not probabilities.
            OtherAnswersError: OpenVINO was asked for, and answers otherwise than it should.
        """
        if self.provider == CUDA:
            self._cuda_sessions = self._opened_on_cuda(max_batch)
        if self.provider == TENSORRT:
            self._require_like_cpu()
        if self.provider == CPU:
            images_NHWC, labels = self._random(max_batch), len(self.metadata.labels)
            engine = choose(self.path, self._session, self._cpu, images_NHWC, labels)
            self._session, self.precision = engine.session, engine.precision
            self.provider = self._session.get_providers()[0]
        sizes = sorted({1, max_batch})
        # On a CPU the first run of a size is hardly slower. Elsewhere it may build kernels.
        if self.provider not in (CPU, OPENVINO):
            sizes.append(max_batch)
        for num_images in sizes:
            start_s = perf_counter()
            self._try(num_images)
            seconds = perf_counter() - start_s
        return seconds / max_batch

    def _opened_on_cuda(self, max_batch: int) -> CudaSessions:
        """Return the sessions for CUDA, which take over the one that checked the file."""
        size, num_classes = self.metadata.image_size, len(self.metadata.labels)
        # Only `CudaSession` may hold it now: it frees device memory under a lock.
        first = vars(self).pop("_session", None)
        # GPU by GPU in turn: the free sessions are taken in this order.
        gpus = gpus_of(self._device) * SESSIONS_PER_MODEL
        try:
            sessions = [
                first if first and not number else self._open(gpu, self._cuda)[0]
                for number, gpu in enumerate(gpus)
            ]
            return CudaSessions(
                list(zip(sessions, gpus, strict=True)),
                (size, size, 3),
                num_classes,
                max_batch,
                graphs=self._cuda.graphs,
            )
        except ModelContractError:
            raise
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ModelContractError(f"{self.path}: warm-up on CUDA failed: {error}") from error

    def _require_like_cpu(self) -> None:
        """Compare answers with the CPU's: TensorRT builds kernels that no export was checked with.

        Raises:
            ModelContractError: A probability is further apart than fp16 may set it.
        """
        images_NHWC = self._random(_COMPARED)
        cpu = Model(self.path, device="cpu", intra_op_threads=self._threads)
        apart = float(np.abs(self.predict(images_NHWC) - cpu.predict(images_NHWC)).max())
        if not apart <= _APART:
            raise ModelContractError(
                f"{self.path}: on {self.provider} probabilities are {apart:.3f} from those of a"
                f" CPU, where {_APART} are allowed; use --device cuda"
            )

    def _random(self, num_images: int) -> NDArray[np.uint8]:
        shape = (num_images, self.metadata.image_size, self.metadata.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def _try(self, num_images: int) -> None:
        """Run random images, and check that the rows are probabilities."""
        num_classes, images_NHWC = len(self.metadata.labels), self._random(num_images)
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
