"""Opens onnxruntime sessions: on a CPU, on CUDA, or by NVIDIA's plugin for TensorRT.

onnxruntime falls back to the CPU in silence, as a whole where a provider's libraries cannot be
loaded, and node by node where a kernel is missing. Here that is an error, unless the device is
`auto`.
"""

import dataclasses
import importlib
import logging
import threading
from pathlib import Path

import onnxruntime as ort

from service.devices import driver_cuda, gpus_of, num_gpus
from service.errors import ModelContractError
from service.sessions.cuda import CudaOptions

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
TENSORRT = "NvTensorRTRTXExecutionProvider"
_DRIVER = "CUDA 13 needs driver 580 or newer on the host"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"

logger = logging.getLogger(__name__)
_registering = threading.Lock()
_registered: set[str] = set()


def open_session(
    path: Path, device: str, gpu: int, intra_op_threads: int, cuda: CudaOptions
) -> tuple[ort.InferenceSession, CudaOptions]:
    """Return a session and its options; `graphs` is off where CUDA cannot capture this model.

    Args:
        path: The ONNX file.
        device: As `ServerConfig.device`.
        gpu: Number of the GPU, one of those of `device`; a CPU ignores it.
        intra_op_threads: Threads within a run.
        cuda: How a CUDA device is used.

    Raises:
        ModelContractError: The file cannot be opened, or the device that was asked for does not
            work.
    """
    wanted = provider_of(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # Threads that spin while waiting cost three quarters of the throughput on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    alone = device.startswith("cuda")
    providers: list[object] = [CPU]
    if wanted == CUDA:
        providers = [(CUDA, cuda.provider(gpu)), *[CPU] * (not alone)]
    if wanted == TENSORRT:
        # With a plugin's devices in the options, providers may not be named once more.
        options.add_provider_for_devices(_tensorrt_devices()[:1], {})
        providers = []
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
            without = dataclasses.replace(cuda, graphs=False)
            return open_session(path, device, gpu, intra_op_threads, without)
        advice = (
            f"; on {device} the GPU must compute all of it: install onnxruntime-gpu[cuda,cudnn] if"
            " CUDA's libraries are missing, or use --device auto"
        )
        raise ModelContractError(
            f"{path}: onnxruntime cannot open it: {error}{advice * alone}"
        ) from error
    if session.get_providers()[0] != wanted:
        if alone:
            raise ModelContractError(
                f"device {device}: CUDA's or cuDNN's libraries cannot be loaded; install"
                " onnxruntime-gpu[cuda,cudnn], or use --device cpu"
            )
        if wanted == TENSORRT:
            raise ModelContractError(f"{path}: TensorRT takes no part of it; use --device cuda")
        logger.warning("device auto: CUDA's libraries cannot be loaded; serving on the CPU")
    return session, cuda


def provider_of(device: str) -> str:
    """Return the provider that a device needs; for `auto` CUDA's, if there is a GPU.

    Raises:
        ModelContractError: The device cannot be had.
    """
    if device in ("cpu", "tensorrt"):
        return CPU if device == "cpu" else TENSORRT
    there = num_gpus() if CUDA in ort.get_available_providers() else 0
    if there:
        if max(gpus_of(device)) >= there:
            raise ModelContractError(
                f"device {device}: this machine has {there} GPUs, cuda:0 to cuda:{there - 1}"
            )
        built_for = int((getattr(ort, "cuda_version", "") or "0").split(".")[0])
        if 0 < driver_cuda() < built_for:
            raise ModelContractError(
                f"device {device}: the NVIDIA driver of this machine knows CUDA {driver_cuda()},"
                f" and this onnxruntime is built for CUDA {built_for}; {_DRIVER}, or --device cpu"
            )
        ort.preload_dlls()
        return CUDA
    if device != "auto":
        raise ModelContractError(
            f"device {device}: no NVIDIA driver with a GPU is found on this machine, or this"
            f" onnxruntime is built without CUDA; {_DRIVER}, and a container needs"
            " --gpus all; or use --device cpu"
        )
    logger.info("device auto: no CUDA device is found; serving on the CPU")
    return CPU


def _tensorrt_devices() -> list[ort.OrtEpDevice]:
    """Return the GPUs that the plugin for TensorRT finds; it is registered once a process."""
    try:
        plugin = importlib.import_module(_PLUGIN)
    except ImportError as error:
        raise ModelContractError(
            "device tensorrt: its plugin is not installed; pip install"
            " onnxruntime-ep-nv-tensorrt-rtx-cu13, or use --device cuda"
        ) from error
    with _registering:
        if TENSORRT not in _registered:
            try:
                ort.register_execution_provider_library(TENSORRT, plugin.get_library_path())
            except Exception as error:  # onnxruntime has no common base of its errors
                raise ModelContractError(
                    f"device tensorrt: its plugin cannot be loaded: {error}"
                ) from error
            _registered.add(TENSORRT)
    found = [device for device in ort.get_ep_devices() if device.ep_name == TENSORRT]
    if not found:
        raise ModelContractError(
            "device tensorrt: its plugin finds no NVIDIA GPU (Ampere or later) on this machine;"
            " use --device cpu"
        )
    return found
