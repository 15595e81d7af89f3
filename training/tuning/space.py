"""The space of a search: settings by name, each a list of choices, a range, or one fixed value."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from training.config import TrainConfig
from training.setting_names import flatten
from training.tuning.policies import augmentation

if TYPE_CHECKING:
    from optuna.trial import Trial

Value = str | int | float | bool
POLICY, STRENGTH = "augment.policy", "augment.strength"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One parameter of a search, as Optuna knows it."""

    name: str
    """The dotted name of the setting, followed by `@…` if it has several ranges."""
    choices: tuple[Value, ...] = ()
    """The values it may have; a single one is fixed. Empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether a range has only whole numbers."""
    when: Mapping[str, tuple[Value, ...]] = dataclasses.field(default_factory=dict)
    """It applies only if each of these parameters has one of these values."""

    @property
    def setting(self) -> str:
        """Return the dotted name of the setting."""
        return self.name.partition("@")[0]

    def applies(self, chosen: Mapping[str, Value]) -> bool:
        """Return whether it applies, given the parameters that are chosen already."""
        return all(chosen.get(name) in values for name, values in self.when.items())

    def suggest(self, trial: "Trial") -> Value:
        """Return the value that a trial tries."""
        if len(self.choices) == 1:
            return self.choices[0]
        if self.choices:
            chosen: Any = trial.suggest_categorical(self.name, list(self.choices))
            return cast(Value, chosen)
        if self.whole:
            return int(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def nearest(self, value: Value) -> Value:
        """Return its value that is nearest to one which may lie outside."""
        if not self.choices:
            inside = min(max(float(value), self.low), self.high)
            return round(inside) if self.whole else inside
        if value in self.choices or isinstance(value, str):
            return value if value in self.choices else self.choices[0]
        numbers = [c for c in self.choices if not isinstance(c, str)]
        return min(numbers, key=lambda c: abs(c - value), default=self.choices[0])

    def ends(self) -> tuple[Value, ...]:
        """Return its extreme values, or all choices: configs are checked with each of them."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the entry of a space file."""
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
    """The parameters of a search, and the config for everything else."""

    entries: tuple[Entry, ...]
    base: TrainConfig

    def suggest(self, trial: "Trial") -> TrainConfig:
        """Return the config that a trial tries; the same if the trial is asked again."""
        chosen: dict[str, Value] = {}
        for entry in self.entries:
            if entry.applies(chosen):
                chosen[entry.name] = entry.suggest(trial)
        return self.config(chosen)

    def config(self, chosen: Mapping[str, Value]) -> TrainConfig:
        """Return the config with these parameters, by name.

        Raises:
            ConfigError: The values do not fit each other, e.g. an odd batch and mixup.
        """
        settings = {name.partition("@")[0]: value for name, value in chosen.items()}
        config = self.base
        policy, strength = settings.pop(POLICY, None), settings.pop(STRENGTH, 0.5)
        if policy is not None:
            augment = augmentation(str(policy), float(strength))
            config = dataclasses.replace(config, augment=augment)
        return config.with_overrides(settings)

    def nearest(self, config: TrainConfig) -> dict[str, Value]:
        """Return the parameters nearest to a config, which may lie outside of the space."""
        known = flatten(config.to_dict())
        known |= dict(zip((POLICY, STRENGTH), _policy_of(config), strict=True))
        chosen: dict[str, Value] = {}
        for entry in self.entries:
            if entry.applies(chosen):
                chosen[entry.name] = entry.nearest(known[entry.setting])
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Return every entry as in a space file."""
        return {entry.name: entry.to_dict() for entry in self.entries}


def _policy_of(config: TrainConfig) -> tuple[str, float]:
    """Return the policy and strength whose settings are nearest to a config's augmentation."""
    augment = config.augment
    for policy, strength in (("cutmix", augment.cutmix / 2), ("mixup", augment.mixup / 0.4),
                             ("trivialaugment", augment.trivial)):  # fmt: skip
        if strength:
            return policy, min(strength, 1.0)
    if augment.crop_area == 1 and not augment.flip:
        return "none", 0.5
    return "standard", min((1 - augment.crop_area) / 1.3, 1.0)
