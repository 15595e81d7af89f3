"""How long `hansang serve` takes from its exec until health is SERVING, alone on one core."""

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import rig

_TIMES = 5
_ENGINES = {"fp32": ("--cpu-engine", "onnxruntime"), "auto": ()}


def start_s(size: int) -> dict[str, float]:
    """Return medians of 5 starts, in seconds, of a model that may be computed in bf16.

    `fp32` is by onnxruntime, `auto` by what it takes here; `cold` is without any bytecode.
    """
    core = {min(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder:
        model = rig.real_model(Path(folder) / "model.onnx", image_size=size, bf16="allowed")
        with rig.published(model) as store:
            found = {}
            for engine, flags in _ENGINES.items():
                for state in ("warm", "cold"):
                    took_s = []
                    # The first warm one reads files that no start has read before.
                    for _ in range(_TIMES + (state == "warm")):
                        with tempfile.TemporaryDirectory() as empty:
                            cold = {"PYTHONPYCACHEPREFIX": empty} if state == "cold" else {}
                            began_s = time.monotonic()
                            server = rig.Server(
                                store.root, *flags, cores=core, environment=rig.ENVIRONMENT | cold
                            )
                            with server:
                                took_s.append(time.monotonic() - began_s)
                    key = f"{engine}, {state}"
                    found[key] = round(statistics.median(took_s[-_TIMES:]), 2)
    return found
