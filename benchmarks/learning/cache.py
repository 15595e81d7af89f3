"""How fast a dataset cache is built, against decoding alone on every core, in one run.

    python -m benchmarks.learning.cache DATA [--image-size 64] [--copies 9] [--repeats 3] [--json]

limit       cores x what one core decodes, resizes and crops of photos that lie in memory
together    the same on all cores at once, which share caches and memory: what is to be had
cache       `hansang prepare`: names, hashes, decoding, writing, all forced to the disk

`--copies` gives each photo so many names, by links: a folder of the size that matters. Memory is
what the building process grew by, at its peak.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from machine import num_cores

_DECODED = 1000


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ of class folders.")],
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    copies: Annotated[int, typer.Option(min=1, help="Names that each photo is given.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; medians are compared.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time the building of a dataset cache against its limit."""
    if part is not None:
        print(json.dumps(_PARTS[part](data, image_size)))
        return
    turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in _PARTS}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        folder = _copied(data, Path(work) / "photos", copies)
        for _ in range(repeats):
            for kind, found in turns.items():
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.learning.cache", str(folder), "--image-size",
                     str(image_size), "--part", kind],
                    check=True, stdout=subprocess.PIPE, text=True,
                    env={**os.environ, "HANSANG_PROGRESS_S": "1e9"},
                )  # fmt: skip
                found.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        kind: {name: statistics.median(turn[name] for turn in found) for name in found[0]}
        for kind, found in turns.items()
    }
    cores = num_cores()
    built = medians["cache"]["photos_per_s"]
    ratios = {
        "cache_over_limit": built / (cores * medians["limit"]["photos_per_s"]),
        "cache_over_together": built / medians["together"]["photos_per_s"],
    }
    result = {
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()}, "medians": medians,
        "cores": cores, "image_size": image_size, "copies": copies,
    }  # fmt: skip
    print(json.dumps(result, indent=2) if as_json else result)


def _limit(data: Path, image_size: int) -> dict[str, float]:
    """Return what one thread decodes a second."""
    from service.pixels.preprocessing import load_square, resize_size

    photos = sorted(data.glob("train/*/*.jpg"))[:_DECODED]
    contents = [photo.read_bytes() for photo in photos]
    for content in contents[:50]:
        load_square(content, resize_size(image_size))
    started_s = time.perf_counter()
    for content in contents:
        load_square(content, resize_size(image_size))
    return {"photos_per_s": len(contents) / (time.perf_counter() - started_s)}


def _together(data: Path, image_size: int) -> dict[str, float]:
    """Return what one process on each core decodes a second, all in all."""
    cores = num_cores()
    with ProcessPoolExecutor(cores) as pool:
        rates = list(pool.map(_limit, [data] * cores, [image_size] * cores))
    return {"photos_per_s": sum(rate["photos_per_s"] for rate in rates)}


def _copied(data: Path, target: Path, copies: int) -> Path:
    if copies == 1:
        return data
    for photo in data.glob("*/*/*.*"):
        folder = target / photo.parent.relative_to(data)
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (folder / f"{copy}-{photo.name}").symlink_to(photo.resolve())
    return target


def _build(data: Path, image_size: int) -> dict[str, float]:
    """Return how fast a cold cache is built, and in how much memory."""
    from training.data.prepare import prepare

    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started_s = time.perf_counter()
        cache = prepare(data, image_size, cache_root=Path(work))
        took_s = time.perf_counter() - started_s
        arrays = sum(split.images.nbytes for split in cache.splits.values())
        photos = sum(len(split.targets) for split in cache.splits.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "photos_per_s": photos / took_s,
        "arrays_mib": arrays / 2**20,
        "grown_mib": (peak - before) / 1024,
    }


_PARTS = {"limit": _limit, "together": _together, "cache": _build}


if __name__ == "__main__":
    typer.run(main)
