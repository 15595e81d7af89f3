"""Everything that decides what a run learns: frozen, documented per field, checked at birth."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from training.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class OptimizerConfig:
    """How weights follow gradients."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` is SGD with Nesterov momentum (without, if momentum is 0)."""

    lr: Positive = 0.05
    """Peak learning rate, for the batch size of the run."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; AdamW's first beta."""

    weight_decay: NotNegative = 5e-4
    """Pulls weights to zero; never norms and biases."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class SchedulerConfig:
    """How the learning rate moves from step to step."""

    name: Literal["none", "step", "cosine", "onecycle", "plateau"] = "cosine"
    """All but `plateau` are pure functions of the step."""

    warmup_epochs: NotNegative = 1.0
    """Linear rise from zero, before `step` and `cosine`."""

    step_epochs: Annotated[int, Field(ge=1)] = 10
    """`step`: epochs between two drops. `plateau`: epochs without a better loss before a drop."""

    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`step` and `plateau`: what a drop multiplies the learning rate by."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class AugmentConfig:
    """What each photo is put through, drawn anew for each photo and step."""

    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Smallest area of a random resized crop, as a fraction; 1 takes the centre, as validation."""

    flip: Fraction = 0.5
    """Probability of a horizontal flip."""

    brightness: Fraction = 0.3
    """Brightness is multiplied by 1 - x to 1 + x."""

    contrast: Fraction = 0.3
    """Contrast is multiplied by 1 - x to 1 + x."""

    saturation: Fraction = 0.3
    """Saturation is multiplied by 1 - x to 1 + x."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class TrainConfig:
    """A training run. Its dataset is named by hash in the run directory."""

    recipe: str = "scratch"
    """The recipe it began as."""

    image_size: Annotated[int, Field(ge=32, le=512)] = 224
    """Side of the square that the model sees, in pixels."""

    epochs: Annotated[int, Field(ge=1)] = 50
    """Times that every photo is seen."""

    batch_size: Annotated[int, Field(ge=2)] = 64
    """Photos in a step. The rest of an epoch that fills no batch is left to the next epoch."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides the initial weights, the order and the augmentation."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target spread over all classes (Szegedy et al. 2016)."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast on CUDA, fp32 on a CPU."""

    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes every core. Results on a CPU depend on it, so a run keeps its number."""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 200
    """Steps between checkpoints within an epoch; its end always makes one."""

    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    augment: AugmentConfig = AugmentConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as `config.json` holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Read what `to_dict` gave, or strings in its places.

        Raises:
            ConfigError: A setting is unknown or out of range; each is named.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ConfigError(f"config: {problems}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> "TrainConfig":
        """Return it with settings changed by dotted name, e.g. `{"optimizer.lr": "0.02"}`.

        Raises:
            ConfigError: A name is unknown (the known ones are listed), or a value out of range.
        """
        values = self.to_dict()
        known = flatten(values)
        for name, value in overrides.items():
            if name not in known:
                raise ConfigError(f"no setting {name!r}; there are {', '.join(known)}")
            *parents, last = name.split(".")
            target = values
            for parent in parents:
                target = target[parent]
            target[last] = value
        return self.from_dict(values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
