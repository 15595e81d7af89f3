"""Epochs reach TensorBoard and a real MLflow server; one that fails costs training nothing."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from training.reports import follower, report
from training.reports.follower import Follower
from training.reports.tracking import (
    MlflowTracker,
    TensorBoardTracker,
    numbers,
    reported,
)
from training.runs.run_record import RunRecord


@pytest.fixture
def server(tmp_path):
    """A real `mlflow server` on SQLite, on a free port."""
    command = os.environ.get("HANSANG_MLFLOW")
    if command is None:
        pytest.skip("no MLflow server here: make test-mlflow")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = (tmp_path / "mlflow.log").open("w")
    process = subprocess.Popen(
        [
            Path(command).resolve().parent / "python", "-m", "mlflow", "server",
            "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
            "--artifacts-destination", str(tmp_path / "artifacts"),
        ],
        stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": ""},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "mlflow.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.mark.timeout(600)
def test_a_run_is_found_on_a_real_mlflow_server(run_dir, tmp_path, server):
    """Each epoch once though the run was resumed, its settings, its result, files and report."""
    from mlflow import MlflowClient

    run = shutil.copytree(run_dir, tmp_path / "first")
    report.write_report(run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:4]))
    follower = Follower(run, {"MLflow": lambda: MlflowTracker(run, server)}, poll_s=0.05)
    follower.start()
    follower.stop(finished=False)
    client = MlflowClient(server)
    (found,) = client.search_runs([client.get_experiment_by_name("hansang").experiment_id])
    assert "KILLED" == found.info.status

    (run / "metrics.jsonl").write_text("".join(lines))
    follower = Follower(run, {"MLflow": lambda: MlflowTracker(run, server)}, poll_s=0.05)
    follower.start()
    follower.stop(finished=True)

    (found,) = client.search_runs([found.info.experiment_id])
    assert ("first", "FINISHED") == (found.info.run_name, found.info.status)
    history = client.get_metric_history(found.info.run_id, "val_top1")
    expected = [json.loads(line)["val_top1"] for line in lines]
    assert list(enumerate(expected, start=1)) == sorted((m.step, m.value) for m in history)
    result = json.loads((run / "result.json").read_text())
    assert found.data.metrics["best_val_top1"] == pytest.approx(result["val_top1"])
    assert "6" == found.data.params["epochs"]
    assert "0.05" == found.data.params["optimizer.lr"]
    assert RunRecord.open(run).dataset_hash == found.data.tags["dataset_hash"]
    paths = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"report.html", "config.json", "metrics.jsonl", "result.json", "plots"} <= paths
    fetched = client.download_artifacts(found.info.run_id, "report.html", str(tmp_path))
    assert (run / "report.html").read_bytes() == Path(fetched).read_bytes()


def test_tensorboard_reads_every_epoch_once(run_dir, tmp_path):
    """What was written is what TensorBoard's own reader finds, also after a resumed run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = shutil.copytree(run_dir, tmp_path / "first")
    for _ in range(2):
        followed = Follower(run, {"TensorBoard": lambda: TensorBoardTracker(run)}, poll_s=0.05)
        followed.start()
        followed.stop(finished=True)

    found = EventAccumulator(str(run / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(numbers(lines[0])) <= set(found.Tags()["scalars"])
    assert [(e["epoch"], pytest.approx(e["val_loss"], rel=1e-6)) for e in lines] == [
        (event.step, event.value) for event in found.Scalars("val_loss")
    ]
    assert 1 == len(list((run / "tensorboard").iterdir()))


class Good:
    """A tracker that keeps what it is sent."""

    name = "good"

    def __init__(self):
        self.seen = []

    def epoch(self, record):
        self.seen.append(record["epoch"])

    def finish(self, run):
        self.seen.append(run.name)


class Failing(Good):
    """One that fails for so many calls."""

    def __init__(self, failures):
        super().__init__()
        self.left = failures

    def epoch(self, record):
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("the server is gone\nand more")
        super().epoch(record)


def test_a_tracker_that_fails_for_a_while_is_tried_again_and_has_all(
    run_dir, tmp_path, capsys, monkeypatch
):
    """It gets every epoch once, late; what never answers is told at the end; others go on."""
    monkeypatch.setattr(follower, "_LAST_PAUSES_S", (0.01, 0.01))
    run = shutil.copytree(run_dir, tmp_path / "first")
    good, late = Good(), Failing(3)

    def absent():
        raise OSError("nobody listens")

    followed = Follower(
        run, {"absent": absent, "late": lambda: late, "good": lambda: good}, poll_s=0.05
    )
    followed.start()
    followed.stop(finished=True)

    assert [1, 2, 3, 4, 5, 6, "first"] == good.seen == late.seen
    said = capsys.readouterr().err.splitlines()
    assert "warning: absent does not take the run (nobody listens); tried again later" in said
    assert "warning: late does not take the run (the server is gone); tried again later" in said
    assert "absent has 0 of 6 epochs (nobody listens)" in said[-1]
    assert 3 == len(said)


def test_a_report_is_tried_again_when_the_system_refuses(run_dir, tmp_path, capsys, monkeypatch):
    """A disk that is full for a moment costs no report; one that stays full is said."""
    from training.reports import report

    failures = [OSError("No space left on device")] * 2

    def write(run):
        if failures:
            raise failures.pop()
        return run / "report.html"

    monkeypatch.setattr(report, "write_report", write)
    assert not reported(run_dir, pauses_s=(0, 0))
    assert f"report: {run_dir / 'report.html'}" in capsys.readouterr().err

    failures += [OSError("No space left on device")] * 3
    why = reported(run_dir, pauses_s=(0, 0))
    assert why.startswith("no report (No space left on device); make it with: hansang report")


def test_a_report_that_fails_is_an_error_at_the_end(dishes, tmp_path, capsys, monkeypatch):
    """The results are printed first; the last line and the exit code say what is missing."""
    from training.cli.train import train
    from training.errors import ReportError
    from training.reports import report

    def fail(_run: Path) -> Path:
        raise ValueError("no such font")

    monkeypatch.setattr(report, "write_report", fail)

    with pytest.raises(ReportError, match=r"no report \(no such font\); make it with") as failed:
        train(dishes, run="r", epochs=1, image_size=32, threads=1, setting=["batch_size=16"],
              runs_dir=tmp_path / "runs", cache_dir=tmp_path / "cache", as_json=True)  # fmt: skip

    assert 73 == failed.value.exit_code
    assert 1 == json.loads(capsys.readouterr().out)["epochs"]
    assert (tmp_path / "runs" / "r" / "result.json").is_file()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_training_ends_well_though_the_server_is_dead(dishes, tmp_path):
    """The run is whole, TensorBoard's file and the report are there, MLflow is one warning."""
    ended = subprocess.run(
        [
            sys.executable, "-m", "hansang", "train", dishes, "--run", "dead", "--epochs", "1",
            "--image-size", "32", "--threads", "1", "--set", "batch_size=16", "--tensorboard",
        ],
        cwd=tmp_path, capture_output=True, text=True,
        env={
            **os.environ, "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        },
    )  # fmt: skip

    assert 0 == ended.returncode, ended.stderr
    assert "warning: MLflow does not take the run" in ended.stderr
    run = tmp_path / "runs" / "dead"
    assert (run / "result.json").is_file()
    assert (run / "report.html").is_file()
    assert [path for path in (run / "tensorboard").iterdir() if "tfevents" in path.name]
