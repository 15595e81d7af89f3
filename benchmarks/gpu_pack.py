"""Packs what a bare CUDA machine lacks into one archive, to travel beside the checkout.

    python benchmarks/gpu_pack.py [--arch 90] [--limit-mib 64]     also: make gpu-pack

Needs a package index, so it runs where there is one. Versions and hashes are those of
requirements/gpu.txt. onnxruntime-gpu as published is 235 MiB; thinned to one GPU architecture
(`--arch`: 90 for an H100 or H200, 80 for an A100, 89 for an L4) it fits. The archive and the
checkout together stay under the limit. benchmarks/gpu_bare.sh unpacks and runs it.
"""

import argparse
import lzma
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.thin_cuda import thin

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "gpu-pack"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
UNUSED = ("libonnxruntime.so*", "libonnxruntime_providers_tensorrt.so", "**/__pycache__")
"""In onnxruntime: for C++ programs, and for another provider."""


def main() -> None:
    """Install into a folder, thin, pack, and weigh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, default=90, help="of the GPU; 90: H100, H200")
    parser.add_argument("--limit-mib", type=float, default=64.0)
    parser.add_argument("--python", default="3.12", help="of the bare machine")
    chosen = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        install(site, chosen.python)
        capi = site / "onnxruntime" / "capi"
        library = capi / "libonnxruntime_providers_cuda.so"
        library.write_bytes(thin(library.read_bytes(), chosen.arch))
        for pattern in UNUSED:
            for path in capi.glob(pattern):
                path.unlink() if path.is_file() else None
        pack(site, OUT / "site.tar.xz")
    (OUT / "commit").write_text(_git("describe", "--always", "--dirty"), "utf-8")
    packed = (OUT / "site.tar.xz").stat().st_size / 2**20
    checkout = sum((ROOT / name).stat().st_size for name in files()) / 2**20
    print(f"{packed:6.1f} MiB  {OUT.relative_to(ROOT)}/site.tar.xz, for sm_{chosen.arch}")
    print(f"{checkout:6.1f} MiB  the checkout")
    print(f"{packed + checkout:6.1f} MiB  in all, of {chosen.limit_mib:g}")
    if packed + checkout > chosen.limit_mib:
        sys.exit(f"error: {packed + checkout - chosen.limit_mib:.1f} MiB too much")


def install(site: Path, python: str) -> None:
    """Install the lock into a folder, for the bare machine's Python."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp",
               f"--python-version={python}", "--target", str(site), "--require-hashes",
               "-r", str(ROOT / "requirements" / "gpu.txt")]  # fmt: skip
    subprocess.run([*command, *(f"--platform={name}" for name in PLATFORMS)], check=True)


def pack(folder: Path, archive: Path) -> None:
    """Write a folder's content as an archive, the same bytes for the same content."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    half = archive.with_suffix(".tmp")
    with tarfile.open(half, "w:xz", preset=6 | lzma.PRESET_EXTREME) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=plain)
    half.replace(archive)


def files() -> list[str]:
    """Return the files that travel as the checkout: tracked, and new ones that are not ignored."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
