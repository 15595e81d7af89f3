"""What a figure of a GPU must not be told without: the machine, its versions, the commit."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def machine(device: str) -> dict[str, Any]:
    """Return what a figure must not be told without."""
    import numpy
    import torch
    import torchvision

    link_cuda()
    import onnxruntime

    about: dict[str, Any] = {
        "gpu": "rehearsal on a CPU" if device == "cpu" else torch.cuda.get_device_name(0),
        "driver": _output(
            "nvidia-smi", "--format=csv,noheader",
            "--query-gpu=driver_version,memory.total,power.limit",
        ) if device == "cuda" else "none",
        "capability": torch.cuda.get_device_capability(0) if device == "cuda" else None,
        "cores": len(os.sched_getaffinity(0)),
        "c_compiler": c_compiler(),
        "python_h": python_h(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
        "commit": commit(),
        "at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }  # fmt: skip
    return about


def c_compiler() -> str | None:
    """Return the C compiler that Triton would take."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def python_h() -> bool:
    """Return whether C can be compiled against this Python."""
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def commit() -> str:
    """Return the commit of the checkout; a copy without git names it in HANSANG_COMMIT."""
    return os.environ.get("HANSANG_COMMIT") or _output(
        "git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"
    )


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
