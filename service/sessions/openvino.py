"""onnxruntime's OpenVINO provider: a CPU's units for bf16 and int8, which onnxruntime leaves idle.

It is a plugin, a package of its own (`pip install 'hansang[openvino]'`), with Intel's kernels. They
run on any x86-64 CPU; the plugin offers itself to Intel's alone, so another one is shown to it as
Intel's (`_offer_to`). The model file stays as it is: bf16 is how the kernels multiply.
"""

import ctypes
import importlib
import importlib.util
import json
import logging
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path

import onnxruntime as ort

from service.errors import ModelContractError

OPENVINO = "OpenVINOExecutionProvider"
_PLUGIN = "onnxruntime_ep_openvino"
_INTEL = 0x8086
_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
"""A CPU's flag → what multiplies bf16."""

logger = logging.getLogger(__name__)
_registering = threading.Lock()


def installed() -> bool:
    """Return whether the plugin is there."""
    with suppress(ImportError):
        return importlib.util.find_spec(_PLUGIN) is not None
    return False


def bf16_unit(about: Path = Path("/proc/cpuinfo")) -> str:
    """Return the unit of this CPU that multiplies bf16; empty if there is none."""
    try:
        lines = about.read_text().splitlines()
    except OSError:
        return ""
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return next((unit for flag, unit in _UNITS.items() if flag in flags), "")


def open_openvino(path: Path, precision: str, runs: int, threads: int) -> ort.InferenceSession:
    """Return a session whose runs OpenVINO computes.

    Args:
        path: The ONNX file.
        precision: `bf16` or `fp32`; the layers of an int8 file stay in int8.
        runs: Runs at a time; a further one waits.
        threads: Threads within a run.

    Raises:
        ModelContractError: The plugin is missing or offers nothing here, or does not take the file.
    """
    devices = _devices()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    how = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "NUM_STREAMS": str(runs),
        "INFERENCE_NUM_THREADS": str(runs * threads),
        # Pinned threads of several processes share one core and leave others idle.
        "ENABLE_CPU_PINNING": "NO",
    }
    try:
        options.add_provider_for_devices(devices, {"load_config": json.dumps({"CPU": how})})
        session = ort.InferenceSession(path, options)
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelContractError(f"{path}: OpenVINO cannot open it: {error}") from error
    if session.get_providers()[0] != OPENVINO:
        raise ModelContractError(f"{path}: OpenVINO takes no part of it")
    return session


def _devices() -> list[ort.OrtEpDevice]:
    """Return this CPU as the plugin's device; the plugin is registered once a process."""
    with _registering:
        found = _offered()
        if not found:
            # The same units under another maker's name.
            _offer_to(ort.get_ep_devices()[0].device)
            try:
                library = importlib.import_module(_PLUGIN).get_library_path()
                ort.register_execution_provider_library(OPENVINO, library)
            except ImportError as error:
                raise ModelContractError(
                    "cpu_engine openvino: its plugin is not installed; pip install"
                    " 'hansang[openvino]', or use --cpu-engine onnxruntime"
                ) from error
            except Exception as error:  # onnxruntime has no common base of its errors
                raise ModelContractError(
                    f"cpu_engine openvino: its plugin cannot be loaded: {error}"
                ) from error
            found = _offered()
    if not found:
        raise ModelContractError(
            "cpu_engine openvino: its plugin offers nothing on this CPU; use"
            " --cpu-engine onnxruntime"
        )
    return found


def _offered() -> list[ort.OrtEpDevice]:
    return [device for device in ort.get_ep_devices() if device.ep_name == OPENVINO][:1]


def _offer_to(device: ort.OrtHardwareDevice) -> None:
    """Show the CPU to plugins as one of Intel's, of which ours asks nothing but the maker.

    onnxruntime has no call for it: the maker's number is overwritten where pybind11 keeps it. What
    lies there must first be what the API says, and afterwards the API must say what was written.
    """
    if device.vendor_id == _INTEL or platform.machine() != "x86_64":
        return
    # An object of another interpreter has its value elsewhere.
    if sys.implementation.name != "cpython" or object.__basicsize__ != 16:
        return
    address = ctypes.c_void_p.from_address(id(device) + object.__basicsize__).value
    if not address:
        return
    kind, maker, number = words = (ctypes.c_uint32 * 3).from_address(address)
    if (kind, maker, number) != (int(device.type), device.vendor_id, device.device_id):
        logger.warning("openvino: this onnxruntime keeps a CPU's maker elsewhere; not offered")
        return
    words[1] = _INTEL
    if device.vendor_id != _INTEL:
        words[1] = maker
