"""The whole road as one flow: its files, its artifacts, its repetition, and its end by force."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.runs import checkpoint

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_pipeline_walks_the_whole_road_and_goes_on_when_repeated(
    prefect_server: None, photos: Path, tmp_path: Path
) -> None:
    """Photos become a serving version; the same run id with more epochs is the same run."""
    from prefect.client.orchestration import get_client

    from flows.pipeline import pipeline
    from service.models.repository import ModelRepository

    def run(run_id="first", **changes):
        return pipeline(
            photos,
            run_id=run_id,
            **changes,
            training={
                "epochs": 2, "image_size": 32,
                "overrides": {"batch_size": "16", "threads": "1"},
            },
            places={
                "runs_dir": tmp_path / "runs",
                "cache_dir": tmp_path / "cache",
                "repository": tmp_path / "models",
            },
        )  # fmt: skip

    released = run(nightly={"review": True})

    epochs = (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()
    assert [1, 2] == [json.loads(line)["epoch"] for line in epochs]
    assert (tmp_path / "runs/first/sheet/index.html").stat().st_size > 0
    store = ModelRepository(tmp_path / "models")
    assert 1 == released.version == store.serving("food42")
    best = max(json.loads(line)["val_top1"] for line in epochs)
    assert best == pytest.approx(released.val_top1)

    again = run(nightly={"review": True})

    # What was released is released once, whatever begins again.
    assert released.version == again.version == store.serving("food42")
    assert ["released"] == [line["event"] for line in store.history("food42")]
    assert epochs == (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()
    state = run("second", nightly={"min_changed": 0.01}, return_state=True)
    assert "Unchanged" == state.name
    assert "0 photos are new or relabelled" in state.message
    assert run("second", nightly={"min_changed": 0.01}) is None
    assert not (tmp_path / "runs/second/config.json").exists()
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    found = {artifact.description: artifact for artifact in artifacts}
    assert "Best validation top-1 is" in found["What first reached"].data
    assert found["accuracy of first"].data.startswith("data:image/png;base64,")
    classes = json.loads(found["Classes of first, the lowest F1 first"].data)
    assert 3 == len(classes)
    assert {"label", "support", "f1", "recall 95 %"} <= classes[0].keys()
    # Prefect keeps a link as markdown.
    assert "runs/first/report.html" in found["The report"].data
    assert "| top-1 |" in found["food42: released as version 1"].data
    assert "nothing to mend" in found["What the photos are like"].data
    assert "sheet/index.html" in found["The data sheet"].data
    assert any("0 of them new" in str(artifact.data) for artifact in artifacts)


def test_what_a_person_must_mend_is_one_line_and_is_not_retried(
    prefect_server: None, photos: Path, tmp_path: Path
) -> None:
    """A wrong setting ends the pipeline at once, with the trainer's own sentence."""
    from prefect.settings import PREFECT_API_URL

    done = subprocess.run(
        [sys.executable, "-m", "hansang", "pipeline", str(photos), "--run", "wrong",
         "--epochs", "1", "--image-size", "32", "--set", "nonsense=1",
         "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache"),
         "--repository", str(tmp_path / "models")],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(),
             "PREFECT_LOGGING_LEVEL": "INFO"},
        capture_output=True, text=True,
    )  # fmt: skip

    assert 1 == done.returncode
    assert "error: no setting 'nonsense'; there are" in done.stderr.splitlines()[-1]
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert "retry" not in output.lower(), output
    assert not (tmp_path / "models").exists()


def test_prepare_finds_what_it_built(prefect_server: None, photos: Path, tmp_path: Path) -> None:
    """The flow gives the path of a cache that opens, and the same one when nothing changed."""
    from flows.prepare import prepare
    from training.data.cache import DatasetCache

    path = prepare(photos, 32, tmp_path / "cache")

    assert 3 == len(DatasetCache.open(path).labels)
    assert path == prepare(photos, 32, tmp_path / "cache")


def test_a_review_links_the_page_to_decide_on(
    prefect_server: None, photos: Path, tmp_path: Path
) -> None:
    """The flow ends with the list and the page, and Prefect links the page."""
    from prefect.client.orchestration import get_client

    from flows.review import review

    found = review(
        photos, {"folds": 2, "epochs": 1, "image_size": 32},
        {"runs_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"},
    )  # fmt: skip

    page = tmp_path / "runs" / f"{photos.name}-review" / "review.html"
    assert page.is_file()
    assert str(page) in found["files"]
    with get_client(sync_client=True) as client:
        links = [one.data for one in client.read_artifacts()]
    assert any(page.as_uri() in str(link) for link in links)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_flow_killed_in_training_leaves_no_orphan_and_a_resumable_run(
    prefect_server: None, photos: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """The end of the flow's process ends the training process too, after a checkpoint."""
    script = (
        "from pathlib import Path\n"
        "from flows.train import train\n"
        f"train(Path({str(photos)!r}), run_id='killed',"
        " training=dict(epochs=400, image_size=32, overrides=dict(batch_size='16', threads='1')),"
        f" places=dict(runs_dir={str(tmp_path / 'runs')!r}, cache_dir={str(tmp_path / 'cache')!r}))"
    )
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    flow = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL
    )
    run_dir = tmp_path / "runs" / "killed"
    metrics = run_dir / "metrics.jsonl"
    _wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 1, flow)

    flow.send_signal(how)
    assert 0 != flow.wait(60)

    # Whoever trains in a run directory holds its lock.
    with (run_dir / ".lock").open("w") as lock:
        _wait_until(lambda: _can_lock(lock))
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    _, state = checkpoint.load(newest)
    # The last epoch written down is the last one that a resumed run need not repeat.
    assert len(metrics.read_text().splitlines()) == state["epoch"] >= 1


def _can_lock(lock) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_until(condition, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process is None or process.poll() is None, "the flow ended early"
        assert time.monotonic() < deadline, "nothing happened for three minutes"
        time.sleep(0.1)
