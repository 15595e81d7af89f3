"""Collects the wheels that a bare CUDA machine lacks, and keeps them under a limit.

    python benchmarks/gpu_wheels.py OUT [--onnxruntime WHEEL] [--limit-mib 60]

Needs a package index, so it runs where there is one. Versions are those of requirements/dev.txt.
The wheel of onnxruntime-gpu as published is four times too large: give one that holds the code of
one GPU architecture alone, or none (training does not need it). Wheels are packed again with LZMA,
which pip reads.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip


def main() -> None:
    """Download, pack, and weigh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the wheels")
    parser.add_argument("--onnxruntime", type=Path, help="a thin wheel of onnxruntime-gpu")
    parser.add_argument("--limit-mib", type=float, default=60.0)
    parser.add_argument("--python", default="3.12", help="of the bare machine")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp",
                   f"--python-version={options.python}", "--dest", folder]  # fmt: skip
        command += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*command, *pinned()], check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            pack(wheel, options.out / wheel.name)
    if options.onnxruntime is not None:
        (options.out / options.onnxruntime.name).write_bytes(options.onnxruntime.read_bytes())
    total = 0.0
    for wheel in sorted(options.out.glob("*.whl")):
        size = wheel.stat().st_size / 2**20
        total += size
        print(f"{size:8.2f} MiB  {wheel.name}")
    print(f"{total:8.2f} MiB  in all, of {options.limit_mib:g}")
    if total > options.limit_mib:
        sys.exit(f"error: {total - options.limit_mib:.2f} MiB too much; give a thinner onnxruntime")


def pinned() -> list[str]:
    """Return what is carried, as NAME==VERSION, without onnxruntime."""
    locked = (HERE.parent / "requirements" / "dev.txt").read_text("utf-8")
    versions = dict(re.findall(r"^([a-z0-9._-]+)==([^\s\\;]+)", locked, re.MULTILINE))
    names = (HERE / "bare" / "carried.txt").read_text("utf-8").splitlines()
    wanted = [name for name in names if name and name[0] != "#" and "==" not in name]
    unknown = sorted(set(wanted) - set(versions))
    assert not unknown, f"carried.txt names what requirements/dev.txt has not: {unknown}"
    return [f"{name}=={versions[name]}" for name in wanted]


def pack(source: Path, target: Path) -> None:
    """Copy a wheel, compressed as far as pip can read."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            entry = zipfile.ZipInfo(item.filename, item.date_time)
            entry.external_attr = item.external_attr
            new.writestr(entry, old.read(item), zipfile.ZIP_LZMA)


if __name__ == "__main__":
    main()
