"""What a run would be worth, did it end here: what searches compare unfinished runs by.

A learning rate that is still high hides how good the weights already are, and only a schedule with
a tail shows it at the end; so top-1 at equal epochs favours runs that anneal early, or not at all.
Here a copy of the run goes through the rest of its own schedule in a single epoch: learning rate,
image size, last epochs without heavy augmentation, average of the weights, all at a faster pace.
Each run is then judged as if it ended at this epoch. (A short cooldown from any point of a run
tells what a whole run of that length would reach: Hägele et al. 2024, arXiv 2405.18392.)
"""

from collections.abc import Callable

from training.data.augmentation import draw
from training.data.loader import Feed
from training.data.sampler import Order
from training.loop.state import restore, tensors_of
from training.loop.step import Engine


def as_if_ended(
    engine: Engine, order: Order, feed: Feed, val_feed: Feed,
    learning_rate: Callable[[float], float], *, epoch: int,
    after_batch: Callable[[], None] = lambda: None,
) -> float:  # fmt: skip
    """Return validation top-1 after one epoch that runs through what is left of the schedule.

    `epoch` have been trained. The engine is left as it was, bit for bit, also when `after_batch`
    raises.
    """
    config = engine.config
    first, last = order.steps_before(epoch), order.steps_before(epoch + 1)
    pace = (order.steps_before(config.epochs) - first) / max(last - first, 1)
    kept = {name: tensor.clone() for name, tensor in tensors_of(engine).items()}
    try:
        batches = feed.batches(order.rows(step) for step in range(first, last))
        for step, (images, targets) in enumerate(batches, first):
            after_batch()
            there = first + (step - first + 0.5) * pace
            then = min(int(epoch + (there - first) / (last - first)), config.epochs - 1)
            late = then >= config.epochs - config.augment.off_epochs
            draws = draw(order.batch_size, config.augment, seed=config.seed, step=step, late=late)
            engine.step(
                images, targets, draws, size=config.size_at(then), lr=learning_rate(there),
                late=late,
            )  # fmt: skip
            engine.follow(step, pace)
        return engine.evaluate(val_feed, after_batch).top1
    finally:
        restore(engine, kept)
