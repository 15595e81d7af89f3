"""Simulates a server in virtual time: a world for each seed, until so many calls were made.

A seed that breaks a rule is printed. `--seed` replays it: the same calls at the same times.
"""

import argparse
import gc
import sys
import time
import traceback
from collections import Counter

from tests.mutated import apply
from tests.service.simulation.mutations import MUTATIONS

CALLS = 1000
"""Calls of one world."""


def main() -> int:
    """Run the worlds; return 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.simulation", description=__doc__)
    parser.add_argument("--calls", type=float, default=1e6, help="simulated calls in all")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cpu", type=float, default=1e9, help="most seconds of CPU")
    parser.add_argument("--seed", type=int, help="replay this one alone")
    parser.add_argument("--mutation", help="a fault that is put in first; see mutations.py")
    given = parser.parse_args()
    if given.mutation:
        apply(MUTATIONS[given.mutation])
    first, most = (given.first, given.calls) if given.seed is None else (given.seed, 1)
    seeds, calls, codes, seconds = run(first, most, given.cpu)
    each = ", ".join(f"{name} {count}" for name, count in codes.most_common())
    print(
        f"{seeds} seeds from {first}, {calls} calls, {seconds:.1f} s of CPU,"
        f" {calls / seconds:.0f} calls/s: {each}"
    )
    return 0


def run(first: int, most_calls: float, cpu_s: float) -> tuple[int, int, Counter[str], float]:
    """Run worlds; return how many, their calls, what these ended with, and seconds of CPU.

    Raises:
        AssertionError: A seed breaks a rule; the message says which seed.
    """
    from tests.service.simulation.world import World

    gc.collect()
    gc.freeze()
    seed, calls, codes = first, 0, Counter[str]()
    began_s = time.process_time()
    while calls < most_calls and (seconds := time.process_time() - began_s) < cpu_s:
        world = World(seed, calls=CALLS)
        try:
            world.run()
        except Exception as error:
            raise AssertionError(
                f"seed {seed}, at {world.machine.now:.6f} s, after {world.calls} calls: {error!r};"
                f" replay it with: make simulate SEED={seed}"
            ) from error
        calls += world.calls
        codes.update({code.name: count for code, count in world.counts.items()})
        seed += 1
    seconds = time.process_time() - began_s
    return seed - first, calls, codes, seconds


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError:
        traceback.print_exc()
        sys.exit(1)
