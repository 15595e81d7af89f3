"""The command: runs scenarios at full length, on ResNet18 with random weights."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import benchmarks.trouble
from benchmarks import rig
from benchmarks.trouble.drain import drain
from benchmarks.trouble.fuzz import fuzz
from benchmarks.trouble.hostile import hostile
from benchmarks.trouble.overload import overload
from benchmarks.trouble.swap import swap
from service.models.repository import ModelRepository

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
    parser.add_argument(
        "--http", action="store_true", help="over HTTP, not gRPC; `hostile` tries both in any case"
    )
    parser.add_argument(
        "--envoy", action="store_true", help="overload with Envoy before the server"
    )
    arguments = parser.parse_args()
    holds, size = True, arguments.image_size
    with tempfile.TemporaryDirectory() as folder:
        models = [
            rig.real_model(Path(folder) / f"{seed}.onnx", image_size=size, seed=seed)
            for seed in range(2)
        ]
        for name in arguments.scenario:
            with rig.published(models[0]) as store:
                found, good = asyncio.run(_run(name, store, models, arguments))
            good &= found.get("exit_code", 0) == 0
            holds &= good
            door = "HTTP" if arguments.http else "gRPC by Envoy" if arguments.envoy else "gRPC"
            about = {"scenario": name, "door": door, "holds": good, **found}
            print(json.dumps(about, indent=1), flush=True)
    return 0 if holds else 1


async def _run(
    name: str, store: ModelRepository, models: list[Path], how: argparse.Namespace
) -> tuple[dict[str, Any], bool]:
    """Run a scenario at full length; return its figures, and whether it held."""
    photos, http = rig.photos(16), how.http
    if name == "drain":
        found = await drain(store, rounds=10, callers=8, photos=photos, http=http)
        return found, found["failed"] == 0 and found["exit_codes"] == [0]
    if name == "swap":
        found = await swap(store, models, swaps=20, callers=4, photos=photos, http=http)
        return found, not found["failed"] and not found["wrong"]
    if name == "overload":
        found = await overload(
            store, seconds=60, deadline_s=1.0, photos=photos, http=http, envoy=how.envoy
        )
        return found, found["goodput_part"] >= 0.95
    if name == "fuzz":
        found = await fuzz(store, images=20_000, http=http)
        return found, not found["internal"] and not found["wrong_neighbours"]
    found = await hostile(store, photos=photos)
    unsound = found["unhandled"] or found["tracebacks"]
    return found, not unsound and found["longest_health_on_a_core_ms"] <= HEALTH_MS


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
