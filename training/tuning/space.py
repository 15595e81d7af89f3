"""What a search may try: settings by name, each a choice, a range or a fixed value."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from training.config import TrainConfig, flatten
from training.tuning.policies import augmentation

if TYPE_CHECKING:
    from optuna.trial import Trial

Value = str | int | float | bool
POLICY, STRENGTH = "augment.policy", "augment.strength"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One parameter of a search."""

    name: str
    """The setting by dotted name, and `@…` where it has several ranges."""
    choices: tuple[Value, ...] = ()
    """What it may be; one value is fixed. Empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Only whole numbers."""
    when: Mapping[str, tuple[Value, ...]] = dataclasses.field(default_factory=dict)
    """It applies where each of these parameters has one of these values."""

    @property
    def setting(self) -> str:
        """Return the dotted name of what it sets."""
        return self.name.partition("@")[0]

    def applies(self, chosen: Mapping[str, Value]) -> bool:
        """Return whether it applies, given the parameters before it."""
        return all(chosen.get(name) in values for name, values in self.when.items())

    def suggest(self, trial: "Trial") -> Value:
        """Return what a trial tries."""
        if len(self.choices) == 1:
            return self.choices[0]
        if self.choices:
            chosen: Any = trial.suggest_categorical(self.name, list(self.choices))
            return cast(Value, chosen)
        if self.whole:
            return int(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def nearest(self, value: Value) -> Value:
        """Return what of this comes nearest to a value that may lie outside."""
        if not self.choices:
            inside = min(max(float(value), self.low), self.high)
            return round(inside) if self.whole else inside
        if value in self.choices or isinstance(value, str):
            return value if value in self.choices else self.choices[0]
        numbers = [c for c in self.choices if not isinstance(c, str)]
        return min(numbers, key=lambda c: abs(c - value), default=self.choices[0])

    def ends(self) -> tuple[Value, ...]:
        """Return the values that a config is checked with."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a space file has it."""
        values: dict[str, Any] = (
            {"choices": list(self.choices)}
            if self.choices
            else {"low": self.low, "high": self.high, "log": self.log}
        )
        if self.when:
            values["when"] = {name: list(of) for name, of in self.when.items()}
        return values


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What a search may try, and the config that it starts from."""

    entries: tuple[Entry, ...]
    base: TrainConfig

    def suggest(self, trial: "Trial") -> TrainConfig:
        """Return the config that a trial tries; asked again, a trial gives the same."""
        chosen: dict[str, Value] = {}
        for entry in self.entries:
            if entry.applies(chosen):
                chosen[entry.name] = entry.suggest(trial)
        return self.config(chosen)

    def config(self, chosen: Mapping[str, Value]) -> TrainConfig:
        """Return the config of parameters by name.

        Raises:
            ConfigError: They do not fit each other, e.g. an odd batch and mixup.
        """
        settings = {name.partition("@")[0]: value for name, value in chosen.items()}
        config = self.base
        policy, strength = settings.pop(POLICY, None), settings.pop(STRENGTH, 0.5)
        if policy is not None:
            augment = augmentation(str(policy), float(strength), epochs=config.epochs)
            config = dataclasses.replace(config, augment=augment)
        return config.with_overrides(settings)

    def nearest(self, config: TrainConfig) -> dict[str, Value]:
        """Return the parameters that come nearest to a config, which may lie outside."""
        known = flatten(config.to_dict())
        known |= dict(zip((POLICY, STRENGTH), _policy_of(config), strict=True))
        chosen: dict[str, Value] = {}
        for entry in self.entries:
            if entry.applies(chosen):
                chosen[entry.name] = entry.nearest(known[entry.setting])
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Return it as a space file has it, every entry."""
        return {entry.name: entry.to_dict() for entry in self.entries}


def _policy_of(config: TrainConfig) -> tuple[str, float]:
    """Return the policy and strength whose settings come nearest to a config's."""
    augment = config.augment
    for policy, strength in (("cutmix", augment.cutmix / 2), ("mixup", augment.mixup / 0.4),
                             ("trivialaugment", augment.trivial)):  # fmt: skip
        if strength:
            return policy, min(strength, 1.0)
    if augment.crop_area == 1 and not augment.flip:
        return "none", 0.5
    return "standard", min((1 - augment.crop_area) / 1.3, 1.0)
