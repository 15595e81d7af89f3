"""Trainings that tasks wait for in threads, and a flow that is stopped meanwhile."""

import time
from pathlib import Path

import pytest
from prefect import flow, task

from flows.tasks.children import died, run_child, stopping_children

CHILD = """
import pathlib, signal, sys, time
told = pathlib.Path({!r})
def save(*_):
    told.write_text(told.read_text() + "stopped")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
told.write_text((told.read_text() if told.exists() else "") + "begun ")
time.sleep(60)
"""


@task(retries=2, retry_delay_seconds=1, retry_condition_fn=died)
def training(told: Path) -> None:
    """Train for a minute, unless stopped."""
    run_child(["-c", CHILD.format(str(told))])


@task
def answer() -> object:
    """Train for no time."""
    return run_child(["-c", "print('[1]')"])


def test_a_night_goes_on_without_a_report(prefect_server: None) -> None:
    """A child that trained and could not report has its result taken all the same."""

    @flow
    def night() -> object:
        code = "import sys; print('[1]'); print('error: no report', file=sys.stderr); sys.exit(73)"
        return run_child(["-c", code])

    assert [1] == night()


def test_what_threads_wait_for_is_stopped_with_the_flow(
    prefect_server: None, tmp_path: Path
) -> None:
    """Each training is told once and saves, none is begun again, and the next flow is free."""
    told = [tmp_path / "a", tmp_path / "b"]

    @flow
    def stopped() -> None:
        with stopping_children():
            for each in told:
                training.submit(each)
            deadline = time.monotonic() + 50
            while not all(each.exists() for each in told):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            raise LookupError("as a cancellation would")

    began_s = time.monotonic()
    with pytest.raises(LookupError):
        stopped()
    assert time.monotonic() - began_s < 55  # none was waited for to its end

    @flow
    def after() -> object:
        with stopping_children():
            return answer.submit().result()

    assert [1] == after()
    assert ["begun stopped", "begun stopped"] == [each.read_text() for each in told]


@pytest.mark.timeout(60)
def test_a_child_may_write_more_than_a_pipe_holds(prefect_server: None) -> None:
    """What it prints arrives whole, and a logged line that is no UTF-8 harms nothing."""
    child = """
import json, sys
sys.stderr.buffer.write(b"caf\\xe9\\n")
print(json.dumps("x" * 1_000_000))
sys.stderr.write("done\\n")
"""

    @flow
    def run() -> object:
        return run_child(["-c", child])

    assert "x" * 1_000_000 == run()
