"""The server in virtual time, under thousands of schedules; what each seed does is in world.py."""

import subprocess
import sys

import pytest

from tests.mutated import mutated
from tests.paths import ROOT
from tests.service.simulation.__main__ import run
from tests.service.simulation.mutations import MUTATIONS

CPU_S = 50.0
"""What the seeds may take; `make simulate` runs a hundred million calls."""

FOUND = {
    0: "a model's fault ended the stream of which it failed one request; and, for as long as a"
    " model was loaded again, the server said that it was starting",
    3: "photos of callers who had left waited to be decoded, and nothing bounded their bytes",
    4: "so did images that waited for the model",
    32: "a drain dropped the request that a stream had read while it sent an answer",
    74: "a message that was given up as its own time ended failed another call",
}
"""Seeds that break a rule where what they found is not mended."""


@pytest.mark.parametrize("seed", FOUND)
def test_seed_that_found_a_fault(seed):
    """What was found stays mended."""
    run(seed, 1, 60)


def test_a_seed_determines_all_that_happens():
    """Two runs of one seed end with the same calls; without that no fault could be replayed."""
    assert run(7, 1, 60)[:3] == run(7, 1, 60)[:3]


@pytest.mark.timeout(600)
def test_whatever_happens_the_rules_hold():
    """Calls, cancels, deadlines, swaps, faults and standstills: no rule of rules.py is broken."""
    seeds, calls, codes, seconds = run(10_000, 1e6, CPU_S)
    print(f"{seeds} seeds, {calls} calls, {seconds:.0f} s of CPU: {codes}")
    # However slow the machine is, each way in which a call can end was there.
    assert {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"} <= set(codes)


def test_every_fault_can_be_put_in():
    """The night would find no fault in a module that has changed since."""
    assert all(mutated(mutation) for mutation in MUTATIONS.values())


@pytest.mark.long
@pytest.mark.parametrize("name", MUTATIONS)
def test_fault_that_was_put_in_is_found(name):
    """Each mutation of the service breaks a rule within 150,000 calls."""
    simulated = subprocess.run(
        [sys.executable, "-m", "tests.service.simulation", "--mutation", name, "--calls", "150000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert 1 == simulated.returncode, simulated.stdout
    assert "replay it with: make simulate SEED=" in simulated.stderr
