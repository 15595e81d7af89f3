"""What the image serve-cpu weighs, with OpenVINO and without, added up without a Docker engine.

    python deploy/image_size.py build/image [--base-mb 130]        (make image-size)

Packages are installed into the folder by the Dockerfile's own commands. Of the base there is only a
figure: 130 MB is what python:3.11-slim-bookworm is taken to be, unpacked. MB are millions of bytes,
as Docker counts. Ends with 1 where an image is above its limit.
"""

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_DOCKERFILE = (_ROOT / "Dockerfile").read_text("utf-8")
_CODE = ("service", "photo_folder", "storage", "hansang.py", "machine.py", "terminal.py")
_ENGINE = "onnxruntime_ep_openvino"
_MOST_MB = {"with OpenVINO": 480, "without": 400}


def main() -> int:
    """Install, add up, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-mb", type=float, default=130)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    venv.create(folder, clear=True)
    _install(folder)
    packages = {path.name: _megabytes(path) for path in _site(folder).iterdir()}
    for name in sorted(packages, key=packages.__getitem__, reverse=True)[:8]:
        print(f"{name:30} {packages[name]:6.1f} MB")
    code = sum(_megabytes(_ROOT / name) for name in _CODE)
    parts = {
        "base": arguments.base_mb,
        "packages": sum(packages.values()) - packages[_ENGINE],
        "code": code,
        "bytecode": _bytecode(folder),
    }
    for name, size_mb in parts.items():
        print(f"{name:30} {size_mb:6.1f} MB")
    without = sum(parts.values())
    found = {"with OpenVINO": without + packages[_ENGINE], "without": without}
    for name, size_mb in found.items():
        print(f"serve-cpu {name:20} {size_mb:6.1f} MB, at most {_MOST_MB[name]}")
    return int(any(found[name] > most for name, most in _MOST_MB.items()))


def _stage(name: str) -> str:
    """Return the lines of a stage of the Dockerfile, each command on one line."""
    stage = _DOCKERFILE.split(f" AS {name}\n", 1)[1].split("\nFROM ", 1)[0]
    return re.sub(r"^ +#.*\n", "", stage, flags=re.M).replace("\\\n", "")


def _shell(command: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(["/bin/sh", "-euc", command], cwd=folder, env=environment, check=True)


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python3.*/site-packages"))


def _install(folder: Path) -> None:
    """Do as the stage of the packages does, in a folder instead of /opt/hansang."""
    command = "pip" + _stage("packages-serve-cpu").split("/pip/bin/pip", 1)[1]
    command = command.replace("pip", f"{sys.executable} -m pip --quiet", 1)
    command = command.replace("/opt/hansang", str(folder))
    _shell(command, _ROOT / "requirements", dict(os.environ))


def _bytecode(folder: Path) -> float:
    """Return what compiling weighs, as the image's own command does it, apart from the packages."""
    command = _stage("serve-cpu").split("RUN unset PYTHONDONTWRITEBYTECODE", 1)[1].split("\n", 1)[0]
    compiled, models = folder / "bytecode", folder / "models"
    models.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(_ROOT),
        "PYTHONPYCACHEPREFIX": str(compiled),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    _shell(f"true {command.replace('/models', str(models))}", folder, environment)
    return _megabytes(compiled)


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else path.rglob("*")
    sizes = (
        file.lstat().st_size
        for file in files
        if (file.is_file() or file.is_symlink()) and "__pycache__" not in file.parts
    )
    return sum(sizes) / 1e6


if __name__ == "__main__":
    sys.exit(main())
