"""The machine: versions, whether CUDA really computes, and how fast it copies and multiplies."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages.steps import Step, rate

Found = dict[str, Any]
_COPY_BYTES = {"cuda": 2**32, "cpu": 2**22}
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 128}


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the steps by name."""
    return {
        "versions": lambda: versions(device),
        "provider": lambda: provider(device, work.parent / "models"),
        "ceilings": lambda: ceilings(device),
    }


def versions(device: str) -> Found:
    """Return what a figure must not be told without."""
    import numpy
    import onnxruntime
    import torch
    import torchvision

    on_cuda = device == "cuda"
    asked = "--query-gpu=driver_version,memory.total,power.limit"
    return {
        "driver": _output("nvidia-smi", "--format=csv,noheader", asked) if on_cuda else "none",
        "capability": torch.cuda.get_device_capability(0) if on_cuda else None,
        "cores": len(os.sched_getaffinity(0)),
        "c_compiler": c_compiler(),
        "python_h": python_h(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_cuda else None,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
    }


def provider(device: str, models: Path) -> Found:
    """Require that every node of the model runs on the provider that was asked for.

    onnxruntime falls back to the CPU in silence: as a whole where CUDA's libraries cannot be
    loaded, and node by node where a kernel is missing. `disable_cpu_ep_fallback` makes both errors.
    """
    import onnxruntime as ort

    from benchmarks.gpu_stages.models import random_model
    from service.models.model import Model
    from service.sessions.cuda import CudaOptions
    from service.sessions.opening import CPU, CUDA

    wanted, rows = CUDA if device == "cuda" else CPU, []
    for precision in ("fp32", "fp16"):
        path = random_model(models, precision, device)
        alone = ort.SessionOptions()
        if device == "cuda":
            alone.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            # The server's session leaves what only copies shapes to the CPU, if there is any.
            ort.preload_dlls()
        chosen: Any = [(CUDA, CudaOptions().provider())] if device == "cuda" else [CPU]
        ort.InferenceSession(path, alone, providers=chosen)
        served = Model(path, device=device)
        assert served.provider == wanted, f"{served.provider} is in use, not {wanted}"
        rows.append({"file": precision, "provider": served.provider})
    return {"rows": rows}


def ceilings(device: str) -> Found:
    """Measure a large copy and a large bf16 product."""
    import torch

    source = torch.zeros(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = rate(lambda: target.copy_(source), device, seconds=1)
    side = _PRODUCT_SIDE[device]
    # Of random numbers: of zeros a product draws less power, and is faster.
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in "ab")
    products = rate(lambda: a @ b, device, seconds=1)
    return {
        "copy_gb_per_s": round(2 * _COPY_BYTES[device] * copies / 1e9, 1),
        "bf16_tflop_per_s": round(2 * side**3 * products / 1e12, 1),
    }


def c_compiler() -> str | None:
    """Return the C compiler that Triton would take."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def python_h() -> bool:
    """Return whether C can be compiled against this Python."""
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def link_cuda() -> None:
    """Let an onnxruntime that lies apart find the CUDA libraries that torch came with.

    `preload_dlls` looks for a folder `nvidia` beside the package: one installed with
    `pip --target` has none, and its sessions would silently be a CPU's.
    """
    found = importlib.util.find_spec("onnxruntime")
    there = importlib.util.find_spec("nvidia")
    if found is None or found.origin is None or there is None:
        return
    beside = Path(found.origin).parents[1] / "nvidia"
    places = [Path(place) for place in there.submodule_search_locations or ()]
    if not beside.exists() and places:
        beside.unlink(missing_ok=True)  # a link that leads nowhere any more
        beside.symlink_to(places[0], target_is_directory=True)
