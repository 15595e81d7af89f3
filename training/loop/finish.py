"""The end of a run: its best epoch is measured on what was held out."""

from training.data.loader import feed_for
from training.loop.run import Run
from training.runs import checkpoint
from training.runs.result import TrainResult, conclude


def finish(run: Run) -> TrainResult:
    """Measure the best epoch of a run that has no epochs left, and write the result down.

    Raises:
        DamagedError: Its weights are lost. The checkpoints after it were removed, so that a run
            resumed in this directory makes them again.
        RunError: They are lost, and the run cannot make them again without those it started from.
        StoppedError: The run was asked to stop.
    """
    try:
        tensors, _ = checkpoint.load(run.checkpoints / checkpoint.BEST)
    except checkpoint.DamagedError:
        _go_back(run)
        raise
    run.engine.best_guess.load_state_dict(checkpoint.model_tensors(tensors))
    evaluations = {}
    for name, split in run.cache.splits.items():
        if name == "train":
            continue
        feed = run.lessons.val_photos if name == "val" else feed_for(split, run.engine.device)
        # There is nothing to save: the newest checkpoint is that of the last epoch's end.
        evaluations[name] = run.engine.evaluate(feed, run.leave_if_asked)
    return conclude(
        run.run_dir, run.cache, run.history, run.best, evaluations, write=run.world.leads
    )


def _go_back(run: Run) -> None:
    left = checkpoint.good_until(run.checkpoints, run.best["steps"])
    if not left:
        run.require_start()
    # All processes have looked before one removes.
    run.world.wait()
    if run.world.leads:
        checkpoint.keep_only(run.checkpoints, left)
    run.world.wait()
