"""The command: runs scenarios at full length, on ResNet18 with random weights."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

import benchmarks.trouble
from benchmarks import rig
from benchmarks.trouble.drain import drain
from benchmarks.trouble.fuzz import fuzz
from benchmarks.trouble.hostile import hostile
from benchmarks.trouble.overload import overload
from benchmarks.trouble.swap import swap

SCENARIOS = ("drain", "swap", "overload", "fuzz", "hostile")
HEALTH_MS = 50
"""Longest time of a health check beside any call, on a core of its own."""


def main() -> int:
    """Run the scenarios that are named, at full length, on ResNet18 with random weights."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trouble",
        description=benchmarks.trouble.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", choices=SCENARIOS, nargs="+")
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    size = arguments.image_size
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        models = [
            rig.real_model(Path(folder) / f"{seed}.onnx", image_size=size, seed=seed)
            for seed in range(2)
        ]
        for name in arguments.scenario:
            with rig.published(models[0]) as store:
                photos = rig.photos(16)
                if name == "drain":
                    found = asyncio.run(drain(store, rounds=10, callers=8, photos=photos))
                    good = found["failed"] == 0 and found["exit_codes"] == [0]
                elif name == "swap":
                    found = asyncio.run(swap(store, models, swaps=20, callers=4, photos=photos))
                    good = not found["failed"] and not found["wrong"]
                elif name == "overload":
                    found = asyncio.run(overload(store, seconds=60, deadline_s=1.0, photos=photos))
                    good = found["goodput_part"] >= 0.95
                elif name == "hostile":
                    found = asyncio.run(hostile(store, photos=photos))
                    good = not (found["unhandled"] or found["tracebacks"])
                    good &= found["longest_health_on_a_core_ms"] <= HEALTH_MS
                else:
                    found = asyncio.run(fuzz(store, images=20_000))
                    good = not found["internal"] and not found["wrong_neighbours"]
                holds &= good and found.get("exit_code", 0) == 0
                print(json.dumps({"scenario": name, "holds": good, **found}, indent=1), flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
