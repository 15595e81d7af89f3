"""Trackers, where people watch runs: TensorBoard event files, or an MLflow server.

metrics.jsonl ─► Follower (a thread, follower.py) ─► each Tracker

The trainer does not know of trackers. They are sent what is in its file, so a slow or dead server
costs training nothing.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from photo_folder.names import shell
from terminal import say
from training.files import write_text
from training.reports.follower import Follower, Tracker
from training.runs.run_record import RunRecord
from training.setting_names import flatten


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics, without the epoch."""
    return {
        name: float(value)
        for name, value in record.items()
        if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorBoardTracker:
    """Event files in `RUN/tensorboard`, rewritten when a run continues, so no epoch is twice."""

    name = "TensorBoard"

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write a scalar for each number, at its epoch."""
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def finish(self, run: RunRecord | None) -> None:
        """Add the best epoch's accuracies, and close the file."""
        if run is not None:
            for split in ("val", "test"):
                value = (run.result or {}).get(f"{split}_top1")
                if value is not None:
                    self._writer.add_scalar(f"best/{split}_top1", value, run.best["epoch"])
        self._writer.close()


class MlflowTracker:
    """A run on an MLflow server; `RUN/mlflow.json` names it, so that a resumed run continues there.

    The server is `MLFLOW_TRACKING_URI`, the experiment `MLFLOW_EXPERIMENT_NAME` or 'hansang'.
    """

    name = "MLflow"

    def __init__(self, run_dir: Path, uri: str) -> None:
        # mlflow reads these when it is imported. A dead server should cost seconds, not minutes.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        self._run_dir = run_dir
        self._client = MlflowClient(uri)
        self._run_id = self._find(uri)
        self._sent = max(
            (m.step for m in self._client.get_metric_history(self._run_id, "val_top1")), default=0
        )

    def _find(self, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        about = json.loads((self._run_dir / "config.json").read_text("utf-8"))
        note = self._run_dir / "mlflow.json"
        try:
            known = json.loads(note.read_text("utf-8"))
            if known["tracking_uri"] == uri:
                self._client.update_run(known["run_id"], status="RUNNING")
                return str(known["run_id"])
        except (FileNotFoundError, ValueError, KeyError, MlflowException):
            pass  # the run is new to this server
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hansang")
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(
            place,
            run_name=self._run_dir.resolve().name,
            tags={
                "dataset_hash": about["dataset_hash"],
                "git_commit": about.get("git_commit", ""),
                "classes": str(len(about["labels"])),
                **{f"version.{name}": v for name, v in about.get("versions", {}).items()},
            },
        )
        run_id = str(run.info.run_id)
        for key, value in flatten(about["config"]).items():
            self._client.log_param(run_id, key, value)
        write_text(note, json.dumps({"tracking_uri": uri, "run_id": run_id}))
        return run_id

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Send an epoch, unless the server has it already."""
        if record["epoch"] <= self._sent:
            return
        self._log(numbers(record), record["epoch"])
        self._sent = record["epoch"]

    def finish(self, run: RunRecord | None) -> None:
        """Send the result, the run's files and its report, and set how the run ended."""
        if run is None:
            self._client.set_terminated(self._run_id, "KILLED")
            return
        keys = ("val_top1", "val_loss", "test_top1", "best_epoch", "ece_before", "ece_after")
        result = run.result or {}
        found = {f"best_{key}": float(result[key]) for key in keys if result.get(key) is not None}
        self._log(found, run.best["epoch"])
        for name in ("config.json", "metrics.jsonl", "result.json", "report.html"):
            if (run.path / name).is_file():
                self._client.log_artifact(self._run_id, str(run.path / name))
        if (run.path / "plots").is_dir():
            self._client.log_artifacts(self._run_id, str(run.path / "plots"), "plots")
        self._client.set_terminated(self._run_id, "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)


def chosen(run_dir: Path, *, tensorboard: bool) -> dict[str, Callable[[], Tracker]]:
    """Return a factory of each tracker that the option or the environment asks for, by name."""
    found: dict[str, Callable[[], Tracker]] = {}
    if tensorboard:
        found["TensorBoard"] = lambda: TensorBoardTracker(run_dir)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        found["MLflow"] = lambda: MlflowTracker(run_dir, uri)
    return found


@contextmanager
def tracked(run_dir: Path, *, tensorboard: bool) -> Iterator[None]:
    """Track the run that is trained in the block; a finished one is sent with its report."""
    follower = Follower(run_dir, chosen(run_dir, tensorboard=tensorboard))
    follower.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        follower.stop(finished=finished)


def reported(run_dir: Path, pauses_s: Sequence[float] = (5, 20)) -> str:
    """Write the run's page, and say where; return why there is none, for an error at the end.

    What the system refused is tried again, after each of the pauses: a disk may be full, or a
    network drive away, for a minute.
    """
    from training.reports.report import write_report

    for pause_s in (*pauses_s, None):
        try:
            say(f"report: {write_report(run_dir)}")
            return ""
        except OSError as error:
            if pause_s is not None:
                say(f"no report yet ({error}); it is tried again in {pause_s:g} s")
                time.sleep(pause_s)
                continue
            failed: Exception = error
        except Exception as error:
            failed = error
        break
    return f"no report ({failed}); make it with: hansang report {shell(run_dir)}"
