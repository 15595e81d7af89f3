"""The command: measures the servers that are named and prints a table or JSON."""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import uvloop

import benchmarks.serving
from benchmarks import rig
from benchmarks.serving.measure import measure
from benchmarks.serving.open_loop import draw, latency
from benchmarks.serving.start import start_s
from benchmarks.serving.subject import (
    BARE,
    EMPTY,
    OURS,
    PEERS,
    WITH_OPENVINO,
    environment_of,
)
from benchmarks.serving.table import ratios, table
from machine import num_cores
from service.sessions.openvino import bf16_unit

SIZES = (64, 224)


def arguments_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=benchmarks.serving.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--peers",
        type=Path,
        help="environment with requirements/bench.txt; those of MLServer and BentoML are beside it",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*OURS, *PEERS, *WITH_OPENVINO, EMPTY, BARE],
        help="these servers alone",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="image sizes, px")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawn ones if omitted")
    parser.add_argument("--open-loop", type=Path, metavar="PNG", help="latency by offered load")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")
    arguments = parser.parse_args()
    if arguments.peers:
        # Each server is started in a folder of its own.
        arguments.peers = arguments.peers.absolute()
    return arguments


def _peers(environment: Path | None) -> list[str]:
    """Return the peers that are there, twice where OpenVINO is and the CPU multiplies bf16."""
    if environment is None:
        return []
    found = []
    for name in (*PEERS, *WITH_OPENVINO):
        folder = environment_of(name, environment)
        if not (folder / "bin" / "python").exists():
            print(f"{name} is left out: there is no {folder}", file=sys.stderr)
        elif name in PEERS or (
            bf16_unit() and any(folder.glob("lib/python3*/site-packages/onnxruntime_ep_openvino"))
        ):
            found.append(name)
    return found


def main() -> int:
    """Measure and print."""
    arguments = arguments_of()
    peers, seconds, plot = arguments.peers, arguments.seconds, arguments.open_loop
    names: list[str] = arguments.only or [*OURS, EMPTY, BARE, *_peers(peers)]
    if arguments.photos:
        files = sorted(arguments.photos.rglob("*.jpg"))
        photos = [path.read_bytes() for path in random.Random(0).sample(files, min(64, len(files)))]
    else:
        photos = rig.photos(64, size=(348, 348))
    found: dict[str, Any] = {"cores": num_cores(), "rounds": arguments.rounds, "sizes": {}}
    for size in arguments.sizes:
        if plot:
            one = uvloop.run(latency(size, names, peers, photos, seconds=seconds))
            draw(one, size, plot.with_name(f"{plot.stem}-{size}{plot.suffix}"))
        else:
            if set(OURS) <= set(names):
                found.setdefault("start_s", {})[str(size)] = start_s(size)
            one = uvloop.run(
                measure(size, names, peers, photos, rounds=arguments.rounds, seconds=seconds)
            )
        found["sizes"][str(size)] = one
    if not plot and set(OURS) <= set(names):
        found["ratios"] = ratios(found["sizes"], names)
    if arguments.json or plot:
        print(json.dumps(found, indent=1))
    else:
        print(table(found))
        print(json.dumps({key: found.get(key, {}) for key in ("ratios", "start_s")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
