"""Checkpoints beside the training: a copy of the tensors is taken, and a thread writes it.

tensors ─► copy ─► steps go on
             └────► thread: checkpoint ─► best ─► metrics ─► older checkpoints removed
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from training.runs import checkpoint, run_directory
from training.runs.run_record import best_of


class Writer:
    """Writes in a thread, one thing at a time; leaving its `with` block waits for the last one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread; what was written before must be waited for."""
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of what was written, if it has failed by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when all is written.

        Raises:
            RunError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            # The first error says why the run ends; that of a checkpoint after it would hide it.
            with suppress(*([] if error is None else [Exception])):
                self.wait()
        finally:
            self._thread.shutdown()


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in the CPU's memory, which later steps leave alone.

    They are contiguous, as files have them: torch would copy with threads of its own elsewhere.
    """
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }


def write(
    run_dir: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write the checkpoint of a step, and make the files beside it agree with it.

    Raises:
        RunError: The disk is full or read-only; earlier checkpoints are untouched.
    """
    checkpoint.save(checkpoint.path_of(run_dir / "checkpoints", step), tensors, state)
    update_files(run_dir, step, state["epoch"], state["history"])


def update_files(run_dir: Path, step: int, epoch: int, history: Sequence[dict[str, Any]]) -> None:
    """Make the best checkpoint, the metrics and the kept checkpoints agree with the newest one.

    After every save and every resume, so a kill between two of these writes is repaired.
    """
    folder = run_dir / "checkpoints"
    at_end_of_epoch = history and step == history[-1]["steps"]
    if at_end_of_epoch and best_of(history)["epoch"] == epoch == len(history):
        checkpoint.link_best(folder, step)
    run_directory.write_metrics(run_dir, history)
    checkpoint.prune(folder)
