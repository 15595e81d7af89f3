"""What a run would be worth, did it end here: a guess that leaves the run as it was."""

import pytest
import torch

from training.config import TrainConfig
from training.errors import StoppedError
from training.loop.trainer import train
from training.runs import checkpoint

pytestmark = pytest.mark.usefixtures("thin")


def test_a_guess_leaves_the_run_as_it_was(cache, tmp_path):
    """A run that is judged at each epoch, and stopped and resumed, ends with the same weights."""
    config = TrainConfig(image_size=32, epochs=3, batch_size=16, threads=1).with_overrides(
        {"optimizer.name": "adamw", "optimizer.lr": 0.002, "optimizer.ema": 0.9,
         "scheduler.name": "plateau", "scheduler.step_epochs": 1, "augment.mixup": 0.2,
         "augment.off_share": 1 / 3, "augment.classes": "0,2"}
    )  # fmt: skip
    plain = train(config, cache, tmp_path / "plain", device="cpu")
    guesses = []

    def judge(history, annealed_preview):
        if len(history) in (1, 2):
            guesses.append((len(history), annealed_preview()))
        if len(guesses) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, cache, tmp_path / "judged", device="cpu", after_epoch=judge)
    judged = train(config, cache, tmp_path / "judged", device="cpu", after_epoch=judge)
    # Judged once more on resume, from the checkpoint, to the same guess.
    assert [1, 1, 2] == [epoch for epoch, _ in guesses]
    assert guesses[0] == guesses[1]
    assert plain.val_loss == judged.val_loss
    weights = [
        checkpoint.load(checkpoint.path_of(tmp_path / name / "checkpoints", 9))[0]
        for name in ("plain", "judged")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_stop_within_a_guess_is_heard_and_leaves_no_trace(cache, tmp_path):
    """Asked to in its validation, the run stops with the checkpoint that it had, and goes on."""
    config = TrainConfig(image_size=32, epochs=2, batch_size=16, threads=1)
    config = config.with_overrides({"optimizer.lr": 0.002})
    plain = train(config, cache, tmp_path / "plain", device="cpu")
    per_epoch = len(cache.splits["train"].targets) // 16
    asked: list[int] = []
    guessing = False

    def judge(history, annealed_preview):
        nonlocal guessing
        guessing = True
        annealed_preview()

    def stop_in_validation() -> bool:
        asked.extend([1] * guessing)
        return len(asked) == per_epoch + 1

    with pytest.raises(StoppedError, match=f"step {per_epoch};"):
        train(config, cache, tmp_path / "stopped", device="cpu", after_epoch=judge,
              should_stop=stop_in_validation)  # fmt: skip
    stopped = train(config, cache, tmp_path / "stopped", device="cpu")

    assert plain.val_loss == stopped.val_loss


def test_a_guess_goes_through_the_rest_of_the_schedule(cache, tmp_path):
    """Judged after two of eight epochs, the last third goes as the last two epochs would."""
    guessed = []

    def judge(history, annealed_preview):
        if len(history) == 2:
            guessed.append(annealed_preview())
            raise KeyboardInterrupt

    rates = []
    from training.loop import annealed_preview

    original = annealed_preview.sample_parameters
    config = TrainConfig(image_size=32, epochs=8, batch_size=16, threads=1)
    seen = config.with_overrides({"augment.trivial": 1.0, "augment.off_share": 0.25})

    def watched(*arguments, **options):
        rates.append(options["late"])
        return original(*arguments, **options)

    annealed_preview.sample_parameters = watched
    try:
        with pytest.raises(KeyboardInterrupt):
            train(seen, cache, tmp_path / "run", device="cpu", after_epoch=judge)
    finally:
        annealed_preview.sample_parameters = original
    # Of six epochs left the last two go without heavy augmentation: the last third of the guess.
    assert [False, False, True] == rates
    assert 0 <= guessed[0] <= 1
