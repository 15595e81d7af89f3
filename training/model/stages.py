"""ResNet18 in six parts, and which of them learn in which epoch.

stem → layer1 → layer2 → layer3 → layer4 (and the mean over its squares) → head
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from training.config import TrainConfig

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
HEAD = len(PARTS) - 1
EVERYTHING = frozenset(range(len(PARTS)))

_CHILDREN = (
    ("conv1", "bn1", "relu", "maxpool"),
    ("layer1",),
    ("layer2",),
    ("layer3",),
    ("layer4", "avgpool"),
    ("fc",),
)
"""The children of torchvision's ResNet in each part, in the order of its forward pass."""

_PART_OF = {child: part for part, children in enumerate(_CHILDREN) for child in children}


@dataclass(frozen=True, slots=True)
class Phase:
    """Successive epochs in which the same parts learn."""

    start: int
    """Its first epoch, from 0."""
    learning: frozenset[int] = EVERYTHING
    """Positions in `PARTS`; the others are frozen, their BatchNorm statistics too."""
    views: int = 0
    """Fixed augmented views of each photo; 0 augments anew at each step."""

    @property
    def frozen(self) -> int:
        """Return how many of the first parts are all frozen, so that their output never changes."""
        return min(self.learning)


def phase_at(config: TrainConfig, epoch: int) -> Phase:
    """Return the phase of an epoch (from 0)."""
    return [phase for phase in phases(config) if phase.start <= epoch][-1]


def phases(config: TrainConfig) -> list[Phase]:
    """Return the phases of a run.

    A phase has fixed views if its first parts are frozen and it has more epochs than views. The
    frozen parts then compute each view once, which is less than each epoch.
    """
    # Of several that begin with the same epoch, the last counts.
    plan = list({s: parts for s, parts in _plan(config) if s < config.epochs}.items())
    ends = [start for start, _ in plan[1:]] + [config.epochs]
    found = []
    for (start, parts), end in zip(plan, ends, strict=True):
        phase = Phase(start, parts)
        if phase.frozen and end - start > config.transfer.views:
            phase = Phase(start, parts, config.transfer.views)
        found.append(phase)
    return found


def _plan(config: TrainConfig) -> list[tuple[int, frozenset[int]]]:
    """Return (first epoch, the parts that learn from then on) of each phase."""
    settings = config.transfer
    head = frozenset({HEAD})
    match settings.strategy:
        case "linear-probe":
            return [(0, head)]
        case "last-layers":
            return [(0, frozenset(range(HEAD - settings.last_parts, HEAD + 1)))]
        case "first-block":
            return [(0, frozenset({0, 1, HEAD}))]
        case "lp-ft":
            alone = max(round(config.epochs * settings.head_share), 1)
            # A run of one epoch skips the first phase.
            return [(0, head), (min(alone, config.epochs - 1), EVERYTHING)]
        case "gradual":
            step = config.epochs * settings.unfreeze_share / HEAD
            return [
                (round(index * step), frozenset(range(HEAD - index, HEAD + 1)))
                for index in range(len(PARTS))
            ]
        case _:
            return [(0, EVERYTHING)]


def part_of(name: str) -> int:
    """Return the part that a parameter, a buffer or a child of the model belongs to."""
    return _PART_OF[name.split(".", 1)[0]]


def split(model: nn.Module, first: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the first parts and the rest as two networks that share the model's weights."""
    return (
        nn.Sequential(*_modules(model, range(first))),
        nn.Sequential(*_modules(model, range(first, len(PARTS)))),
    )


def freeze(model: nn.Module, learning: frozenset[int]) -> None:
    """Let only the parameters of these parts take gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in learning)


def set_modes(model: nn.Module, learning: frozenset[int]) -> None:
    """Put these parts into training mode, and the others, whose BatchNorm is frozen, into eval."""
    model.train()
    for name, child in model.named_children():
        child.train(part_of(name) in learning)


def num_trained(model: nn.Module, config: TrainConfig) -> int:
    """Return how many parameters ever learn in a run."""
    learning = frozenset[int]().union(*(phase.learning for phase in phases(config)))
    return sum(p.numel() for name, p in model.named_parameters() if part_of(name) in learning)


def _modules(model: nn.Module, parts: range) -> Iterator[nn.Module]:
    children = dict(model.named_children())
    for part in parts:
        yield from (children[name] for name in _CHILDREN[part])
        if part == HEAD - 1:
            yield nn.Flatten(1)
