"""The end of a run: its best epoch is evaluated on every held-out split, and the result written."""

from training.data.loader import loader_for
from training.loop.run import Run
from training.runs import checkpoint
from training.runs.result import TrainResult, write_result


def finish(run: Run) -> TrainResult:
    """Evaluate the best epoch of a run that has no epochs left, and write the result.

    Raises:
        DamagedError: The weights of the best epoch are lost. The checkpoints after it are removed,
            so that a run which resumes in this directory makes it again.
        RunError: They are lost, and making them again needs the weights that the run started from.
        StoppedError: The run was asked to stop.
    """
    run.written()
    try:
        tensors, _ = checkpoint.load(run.checkpoints / checkpoint.BEST)
    except checkpoint.DamagedError:
        _go_back(run)
        raise
    run.learner.released_model.load_state_dict(checkpoint.model_tensors(tensors))
    device, evaluations = run.learner.device, {}
    for name, split in run.cache.splits.items():
        if name == "train":
            continue
        # That of validation is there already; a second one would hold the photos twice.
        loader = run.batches.val_photos if name == "val" else loader_for(split, device)
        # Nothing to save on a stop: the newest checkpoint is that of the last epoch.
        evaluations[name] = run.learner.evaluate(loader, run.stop_if_asked)
    return write_result(
        run.run_dir, run.cache, run.history, run.best, evaluations, write=run.world.leads
    )


def _go_back(run: Run) -> None:
    """Remove the checkpoints after the best epoch."""
    kept = checkpoint.good_until(run.checkpoints, run.best["steps"])
    if not kept:
        run.require_start()
    # Every process has read the checkpoints before the leader removes some.
    run.world.wait()
    if run.world.leads:
        checkpoint.keep_only(run.checkpoints, kept)
    run.world.wait()
