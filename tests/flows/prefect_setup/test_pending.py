"""A worker dies between taking a run and starting it: real processes, by `make test-prefect`."""

import os
import signal
import time

import pytest

from flows.prefect_setup.worker import _descendants
from tests.flows.rig import Rig

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("HANSANG_TEST_PREFECT"),
        reason="minutes of servers and workers: make test-prefect runs it",
    ),
]


@pytest.fixture
def rig(tmp_path):
    """A server of its own."""
    rig = Rig(tmp_path)
    rig.start_server()
    yield rig
    rig.close()


def test_a_run_that_dies_before_it_starts_keeps_its_place_for_a_while_only(rig, photos, tmp_path):
    """The deployment has one place: the next run waits for it, and then both complete."""
    rig.deploy(more="never_started_s=30")
    assert 1 == rig.get("/deployments/name/prepare/prepare")["global_concurrency_limit"]["limit"]
    worker = rig.start_worker("hansang")
    given = {"data": str(photos), "cache_dir": str(tmp_path / "cache"), "image_size": 32}
    first = rig.start_run("prepare/prepare", given)

    while rig.state(first)["type"] == "SCHEDULED":
        time.sleep(0.05)
    for pid in (worker.pid, *_descendants(worker.pid)):
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    assert "PENDING" == rig.state(first)["type"]

    second = rig.start_run("prepare/prepare", given)
    rig.start_worker("hansang")
    rig.until(lambda: "AwaitingConcurrencySlot" in rig.states(second), within_s=60)
    assert "PENDING" == rig.state(first)["type"]

    for run in (first, second):
        rig.until(lambda run=run: rig.state(run)["type"] == "COMPLETED", within_s=240)
    states = rig.states(first)
    assert "Running" not in states[: states.index("AwaitingRetry")]
    assert states.index("Pending") < states.index("AwaitingRetry") < states.index("Completed")
