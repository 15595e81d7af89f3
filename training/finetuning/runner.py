"""Trains the jobs of a study in this process, one after another, each an ordinary run.

Other processes with the same study share the jobs.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from terminal import progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import placement_of
from training.distributed.job_claims import run_jobs
from training.errors import BusyError, ReportError, RunError
from training.finetuning.search import Job, config_for, is_finished
from training.loop.stopping import stop_on_signals
from training.loop.trainer import train
from training.model.pretrained import Start
from training.reports.tracking import reported, tracked
from training.runs import run_directory
from training.runs.result import TrainResult


class Runner:
    """Trains jobs with the settings that a study shares; `search` is given its `run_all`."""

    def __init__(
        self,
        *,
        cache: DatasetCache,
        start: Start,
        image_size: int,
        overrides: Mapping[str, Any],
        device: str = "auto",
        placement: str = "auto",
        use_features: bool = True,
        tensorboard: bool = False,
        accept_changes: bool = False,
    ) -> None:
        self._cache = cache
        self._start = start
        self._image_size = image_size
        self._overrides = overrides
        self._device = device
        self._placement = placement_of(placement)
        self._use_features = use_features
        self._tensorboard = tensorboard
        self._unreported: list[str] = []
        """Why finished runs have no report, a sentence each."""
        self._accept_changes = accept_changes

    def run_all(self, jobs: Sequence[Job]) -> list[TrainResult]:
        """Train the jobs that are not finished; return the results of those that were trained here.

        Raises:
            TrainingError: A run was stopped, or failed; the same command goes on.
        """
        results: list[TrainResult] = []
        stop = stop_on_signals()

        def run(job: Job) -> None:
            try:
                results.extend(self._done(job, f"{jobs.index(job) + 1} of {len(jobs)}", stop))
            except BusyError as error:
                if job.stage:
                    raise
                # A single run is not shared.
                raise RunError(str(error)) from error

        run_jobs(jobs, run, stop.is_set)
        return results

    def require_reports(self) -> None:
        """Raise a ReportError if a finished run has no report."""
        if self._unreported:
            raise ReportError("; ".join(self._unreported))

    def _done(self, job: Job, place: str, stop: threading.Event) -> list[TrainResult]:
        """Train a job unless it is finished; return its result if it was trained here."""
        config = config_for(
            job.strategy, self._start, epochs=job.epochs, image_size=self._image_size,
            seed=job.seed, overrides=self._overrides,
        )  # fmt: skip
        if job.stage and is_finished(job.run_dir):
            # Its checkpoints may be gone, so it is not resumed; but it must be this very run.
            run_directory.open_or_create(job.run_dir, config, self._cache, {})
            return []
        where = f"{job.stage or 'run'} {place}"
        say(f"{where}: {job.strategy}, {job.epochs} epochs, seed {job.seed}: {job.run_dir}")
        start = None if job.strategy == "scratch" else self._start
        label = f"{job.stage} {job.strategy}".strip()
        with tracked(job.run_dir, tensorboard=self._tensorboard):
            result = self._train(job, config, start, label, stop)
            # Within the block, so that a tracker is sent the report. Rungs get one on demand.
            if not job.stage.startswith("rung"):
                self._unreported += filter(None, [reported(job.run_dir)])
        return [result]

    def _train(
        self,
        job: Job,
        config: TrainConfig,
        start: Start | None,
        label: str,
        stop: threading.Event,
    ) -> TrainResult:
        with progress(label) as report:
            return train(
                config, self._cache, job.run_dir, device=self._device, placement=self._placement,
                start=start, use_features=self._use_features, should_stop=stop.is_set,
                accept_changes=self._accept_changes, progress=report,
            )  # fmt: skip
