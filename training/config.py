"""Everything that decides what a run learns: frozen, documented per field, checked when made."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from training.errors import ConfigError
from training.setting_names import flatten, renamed, require_known

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=0.25, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positions = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    # Also as text: "3,7" of `--set`, or "[3, 7]" of a settings table.
    BeforeValidator(lambda v: [n for n in v.strip("()[] ").split(",") if n.strip()]
                    if isinstance(v, str) else v),
]  # fmt: skip
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class OptimizerConfig:
    """How an optimizer turns gradients into steps."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` is SGD with Nesterov momentum (without, if momentum is 0)."""

    lr: Positive = 0.05
    """Peak learning rate, for the batch size of the run."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; AdamW's first beta."""

    weight_decay: NotNegative = 5e-4
    """Pulls weights to zero; norms and biases are left alone."""

    clip_norm: NotNegative = 0.0
    """Longest gradient, as the norm over all weights; 0 does not clip."""

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the average of the weights that is validated and released; 0 takes the last
    weights instead. It begins low, as (1 + step) / (10 + step)."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class SchedulerConfig:
    """How the learning rate changes from step to step."""

    name: Literal["none", "step", "cosine", "onecycle", "plateau"] = "cosine"
    """All but `plateau`, which looks at validation losses, are functions of the step alone."""

    warmup_epochs: NotNegative = 1.0
    """Linear rise from zero, before `step` and `cosine`."""

    step_epochs: Annotated[int, Field(ge=1)] = 10
    """`step`: epochs between two drops. `plateau`: epochs without a better loss before a drop."""

    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`step` and `plateau`: what a drop multiplies the learning rate by."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class AugmentConfig:
    """What is done to photos in training, at random for each photo and step."""

    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Smallest area of a random resized crop, as a fraction; 1 takes the centre instead."""

    sharp_crops: bool = False
    """Cut crops from squares a quarter larger, which enlarging them blurs less."""

    flip: Fraction = 0.5
    """Probability of a horizontal flip."""

    brightness: Fraction = 0.3
    """Brightness is multiplied by 1 - x to 1 + x."""

    contrast: Fraction = 0.3
    """Contrast is multiplied by 1 - x to 1 + x."""

    saturation: Fraction = 0.3
    """Saturation is multiplied by 1 - x to 1 + x."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation by up to this many degrees either way."""

    trivial: Fraction = 0.0
    """Probability of one operation of TrivialAugment, wide (Müller and Hutter 2021)."""

    trivial_colours: bool = True
    """Whether it may change colours, too; otherwise it moves pixels alone."""

    erasing: Fraction = 0.0
    """Probability that a rectangle of 2 to 33 % of the area is blanked (Zhong et al. 2017)."""

    mixup: NotNegative = 0.0
    """Alpha of mixup (Zhang et al. 2018), each photo with its neighbour in the batch; 0 is off."""

    cutmix: NotNegative = 0.0
    """Alpha of CutMix (Yun et al. 2019); with mixup on as well, each photo gets one of the two."""

    off_share: Fraction = 0.0
    """Part of the run, its last whole epochs, without trivial, erasing, mixup and cutmix."""

    classes: Positions = ()
    """Classes that are augmented, by position among the labels; empty is all. Others: centres."""

    @property
    def mixes(self) -> bool:
        """Return whether photos are mixed with their neighbours."""
        return bool(self.mixup or self.cutmix)


Strategy = Literal[
    "scratch", "linear-probe", "last-layers", "full", "lp-ft", "gradual", "first-block"
]


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class TransferConfig:
    """Which weights a run starts from, and which parts of the network learn in which epochs."""

    strategy: Strategy = "scratch"
    """All but `scratch` start from trained weights, with a new head."""

    weights: str = ""
    """SHA-256 of the weights it starts from; empty for random ones."""

    last_parts: Annotated[int, Field(ge=1, le=5)] = 1
    """`last-layers`: how many parts before the head learn with it; 1 is layer4."""

    head_share: Annotated[float, Field(gt=0, lt=1)] = 1 / 6
    """`lp-ft`: part of the run in which the head learns alone, one epoch at least."""

    unfreeze_share: Annotated[float, Field(ge=0, le=1)] = 5 / 12
    """`gradual`: part of the run until everything learns; parts begin in turn, the head first."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a part, as a fraction of that of the part after it (Howard, Ruder 2018)."""

    views: Annotated[int, Field(ge=0, le=256)] = 8
    """Fixed augmented views of each photo, without mixup and CutMix, while the first parts are
    frozen. The output of these parts is then computed once. 0 augments anew at each step."""

    def __post_init__(self) -> None:
        if (self.strategy == "scratch") == bool(self.weights):
            raise ValueError(
                f"strategy {self.strategy!r} {'takes no' if self.weights else 'needs'} weights to"
                " start from; hansang finetune DATA --from SOURCE gives them"
            )


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class TrainConfig:
    """The settings of a run; the run directory names the dataset beside them."""

    recipe: str = "scratch"
    """The recipe that these settings began as."""

    image_size: Annotated[int, Field(ge=32, le=512)] = 224
    """Side of the square that the model sees when it is validated and served, in pixels."""

    train_scale: Scale = 1.0
    """Side that it is trained at, as a part of `image_size`; at small sides, 1 does best."""

    start_scale: Scale = 1.0
    """Side in the first epoch, as a part of the training side; it grows for two thirds of a run."""

    epochs: Annotated[int, Field(ge=1)] = 50
    """How often every photo is seen."""

    photos_per_class: Annotated[int, Field(ge=0)] = 0
    """Learn from so many photos of each class, repeated to an epoch as long as all; 0 is all."""

    early_stopping_epochs: Annotated[int, Field(ge=0)] = 0
    """End the run after so many epochs without a better validation top-1; 0 trains to the end."""

    batch_size: Annotated[int, Field(ge=2)] = 64
    """Photos in a step, over all devices. The rest of an epoch that fills no batch is in the first
    batch of the next epoch."""

    micro_batch_size: Annotated[int, Field(ge=0)] = 0
    """Photos computed at a time, whose gradients add up to those of the batch; 0 is all at once."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides the initial weights, the order and the augmentation."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target that is spread over all classes (Szegedy et al. 2016)."""

    balance: Literal["none", "loss", "sampling"] = "none"
    """What rare classes get: nothing, a larger weight in the loss, or more photos in an epoch."""

    balance_power: Fraction = 0.5
    """Weight of a class: its number of photos to the power of minus this; 1 makes all equal."""

    flip_average: bool = False
    """Average the answers for a photo and its mirror image, in validation and in the released file;
    a call then costs twice as much."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of training steps. `auto` is bf16 autocast on devices with bf16 hardware (GPUs, newer server
    CPUs), fp16 on older GPUs with tensor cores (V100, T4), else fp32. With fp16 the loss is scaled,
    and a step that overflows is left out. Weights, their average and validation are always fp32."""

    compile: Literal["auto", "off", "on", "graphs"] = "auto"
    """`torch.compile` of the last side alone; `graphs` adds CUDA graphs. `auto` is off on a CPU; on
    CUDA it is on where the run is long enough to win back the time that compiling takes."""

    sync_batchnorm: bool = False
    """BatchNorm takes its statistics from the photos of all processes, as one process has them; at
    the cost of waiting for each other in every layer."""

    deterministic: bool = True
    """Use only kernels that give the same bits every time. Without, a run on CUDA that was stopped
    and resumed ends near the run that was not, but not exactly there."""

    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes every core that no other program computes on as the run begins. Results
    on a CPU depend on the number, so a run keeps it."""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 200
    """Steps between two checkpoints within an epoch; the end of an epoch always saves one."""

    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    augment: AugmentConfig = AugmentConfig()
    transfer: TransferConfig = TransferConfig()

    def __post_init__(self) -> None:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must divide batch_size"
                f" ({self.batch_size})"
            )
        if self.micro_batch_size == 1:
            raise ValueError("micro_batch_size must be 2 or more: BatchNorm compares photos")
        if self.augment.mixes and (self.batch_size % 2 or self.micro_batch_size % 2):
            raise ValueError(
                "mixup and cutmix pair neighbours: batch_size and micro_batch_size must be even"
            )

    def is_late(self, epoch: int) -> bool:
        """Return whether an epoch (from 0) is one of the last, which `augment.off_share` names."""
        return epoch >= self.epochs - round(self.augment.off_share * self.epochs)

    def size_at(self, epoch: int) -> int:
        """Return the side that is trained at in an epoch (from 0), in steps of 16 pixels."""
        growing = max(self.epochs * 2 // 3, 1)
        grown = epoch >= growing
        start = 1.0 if grown else self.start_scale + (1 - self.start_scale) * epoch / growing
        scale = self.train_scale * start
        # From 32 px on, ResNet18's last layers have at least one pixel.
        return self.image_size if scale == 1 else max(round(self.image_size * scale / 16) * 16, 32)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `config.json` holds them."""
        values = dataclasses.asdict(self)
        values["augment"]["classes"] = list(self.augment.classes)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Return the config of what `to_dict` returned; values may also be strings.

        Settings that had another name when a run began are understood.

        Raises:
            ConfigError: Settings are unknown or out of range; the message names each.
        """
        try:
            return TypeAdapter(cls).validate_python(renamed(values, cls().epochs))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError(f"config: {'; '.join(problems)}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> "TrainConfig":
        """Return a copy with settings changed by dotted name, e.g. `{"optimizer.lr": "0.02"}`.

        Raises:
            ConfigError: A name is unknown (the known ones are listed), or a value out of range.
        """
        values = self.to_dict()
        require_known(overrides, list(flatten(values)))
        for name, value in overrides.items():
            *parents, last = name.split(".")
            target = values
            for parent in parents:
                target = target[parent]
            target[last] = value
        return self.from_dict(values)
