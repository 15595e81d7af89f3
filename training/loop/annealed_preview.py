"""Annealed preview: the validation top-1 of an unfinished run after annealing its schedule now.

A high learning rate hides how good the weights already are; accuracy shows once it is annealed.
Comparing top-1 at equal epochs therefore favours runs that anneal early, or never. The preview puts
a copy of the run through the rest of its own schedule in a single epoch: learning rate, image size,
the last epochs without heavy augmentation, and the average of the weights, all sped up. (A short
cooldown from any point of a run tells what a whole run of that length would reach: Hägele et al.
2024, arXiv 2405.18392.)
"""

from collections.abc import Callable

from training.data.augment_parameters import sample_parameters
from training.data.loader import Loader
from training.data.sampler import Sampler
from training.loop.learner import Learner, StepData
from training.loop.state import restore, tensors_of


def annealed_preview(
    learner: Learner, sampler: Sampler, train_loader: Loader, val_loader: Loader,
    learning_rate: Callable[[float], float], *, epoch: int,
    after_batch: Callable[[], None] = lambda: None,
) -> float:  # fmt: skip
    """Return the top-1 on validation after one epoch through the rest of the schedule, a fraction.

    Args:
        learner: A run's learner after `epoch` epochs. It ends as it was, bit for bit, also when
            `after_batch` raises.
        sampler: Which photos each step sees.
        train_loader: The training photos.
        val_loader: The validation photos.
        learning_rate: The learning rate at a step of the run, which may be a fraction.
        epoch: Epochs that are trained.
        after_batch: Is called after each batch.
    """
    config = learner.config
    first, last = sampler.steps_before(epoch), sampler.steps_before(epoch + 1)
    # Steps of the schedule for each step of the preview.
    speed = (sampler.steps_before(config.epochs) - first) / max(last - first, 1)
    kept = {name: tensor.clone() for name, tensor in tensors_of(learner).items()}
    try:
        batches = train_loader.batches(sampler.rows(step) for step in range(first, last))
        for step, (images, targets) in enumerate(batches, first):
            after_batch()
            schedule_step = first + (step - first + 0.5) * speed
            passed = (schedule_step - first) / (last - first)
            schedule_epoch = min(int(epoch + passed), config.epochs - 1)
            late = config.is_late(schedule_epoch)
            parameters = sample_parameters(
                sampler.batch_size, config.augment, seed=config.seed, step=step, late=late
            )
            data = StepData(
                images, targets, parameters, size=config.size_at(schedule_epoch), late=late
            )
            learner.step(data, lr=learning_rate(schedule_step))
            learner.update_average(step, speed)
        return learner.evaluate(val_loader, after_batch).top1
    finally:
        restore(learner, kept)
