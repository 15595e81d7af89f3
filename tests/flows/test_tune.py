"""The search as a flow: a task a trial, its end by force, its repetition, its artifacts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_a_killed_search_goes_on_and_shows_what_it_found(
    prefect_server: None, photos: Path, tmp_path: Path
) -> None:
    """SIGKILL in mid-trial costs no trial: the same study goes on, and ends with its artifacts.

    Two trials at a time, and the winner's final run.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    script = (
        "from pathlib import Path\n"
        "from flows.tasks.parameters import Places, Search\n"
        "from flows.tune import tune\n"
        "search = Search(epochs=2, trials=3, image_size=32, threads=1, workers=2, final=2)\n"
        f"root = Path({str(tmp_path)!r})\n"
        "places = Places(runs_dir=root / 'runs', cache_dir=root / 'cache')\n"
        f"found = tune(Path({str(photos)!r}), search, 's', places)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "runs/s/trial-0000/metrics.jsonl"
    deadline = time.monotonic() + 200
    while not first.is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    names: dict[str, Any] = {}
    exec(script, names)  # noqa: S102
    found = names["found"]

    assert [0, 1, 2] == sorted(one["number"] for one in found["trials"])
    assert 3 == found["complete"]
    for one in found["trials"]:
        lines = (tmp_path / "runs/s" / one["run"] / "metrics.jsonl").read_text().splitlines()
        assert [1, 2] == [json.loads(line)["epoch"] for line in lines]
    final = json.loads((tmp_path / "runs/s/final.json").read_text())
    assert found["best_trial"] == final["trial"]
    assert all(Path(run, "result.json").is_file() for run in final["runs"])
    with get_client(sync_client=True) as client:
        artifacts = {found.description: found for found in client.read_artifacts()}
    assert "3 complete, 0 pruned" in artifacts["What s found"].data
    assert 3 == len(json.loads(artifacts["Trials of s"].data))
    assert artifacts["history of s"].data.startswith("data:image/png;base64,")
    # The killed flow's first trial was never told to end; the second flow's is that trial, ended.
    # Prefect's server hears of task states a moment later than the flow.
    wanted, states = ("trial, the 1. here", "Completed"), set()
    deadline = time.monotonic() + 120
    while wanted not in states:
        assert time.monotonic() < deadline, states
        time.sleep(0.5)
        with get_client(sync_client=True) as client:
            states = {(run.name, run.state.name) for run in client.read_task_runs() if run.state}


def test_a_storage_is_named_to_processes_where_no_list_of_them_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in the environment, for as long as the search takes."""
    from flows.tasks.parameters import Search
    from flows.tune import _storage

    url = "postgresql://joe@host/db"
    assert not any(url in option for option in Search(storage=url).arguments())
    for before in (None, "sqlite:///x.db"):
        monkeypatch.delenv("HANSANG_STORAGE", raising=False)
        if before is not None:
            monkeypatch.setenv("HANSANG_STORAGE", before)
        with _storage(url):
            assert url == os.environ["HANSANG_STORAGE"]
        with _storage(None):
            assert before == os.environ.get("HANSANG_STORAGE")
        assert before == os.environ.get("HANSANG_STORAGE")
