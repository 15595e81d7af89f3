"""Reads the space of a search from a TOML file, or the default one (`spaces.toml`).

Everything is checked when it is read. A search of days must not end at trial 17 because of a value
that no run can have.
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna

from training.config import TrainConfig
from training.errors import ConfigError
from training.setting_names import flatten
from training.tuning.policies import POLICIES
from training.tuning.space import POLICY, STRENGTH, Entry, Space, Value

_BUDGET = {"epochs": "--epochs", "image_size": "--image-size", "seed": "--seed"}
_RANDOM_CONFIGS = 300
"""Random configs of a space that are checked before a search."""
_NOT_SEARCHED = ("recipe", "threads", "compile", "deterministic", "checkpoint_every_steps",
                 "early_stopping_epochs", "augment.classes")  # fmt: skip


def read_space(name: str, base: TrainConfig) -> Space:
    """Return the default space if `name` is `default`, or it with the entries that a file replaces.

    Raises:
        ConfigError: The file cannot be read, or an entry is wrong; the message says which and why.
    """
    default = tomllib.loads((files("training.tuning") / "spaces.toml").read_text("utf-8"))
    raw, changed = default, default
    if name != "default":
        try:
            changed = tomllib.loads(Path(name).read_text("utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"--space {name}: there is no such file; give a TOML file, or default"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--space {name} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{name} is no TOML: {error}") from error
        changed = _unnested(changed)
        settings = {key.partition("@")[0] for key in changed}
        raw = {key: v for key, v in default.items() if key.partition("@")[0] not in settings}
        raw = {**changed, **raw}
    entries = tuple(_entry(key, value, base, name) for key, value in raw.items())
    space = Space(_ordered(entries, changed, name), base)
    _check(space, name)
    return space


def _unnested(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return entries by dotted name: tables such as [optimizer] are flattened, ranges are kept."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and not {"low", "high", "choices", "when"} & value.keys()
        flat |= _unnested(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def _entry(key: str, value: Any, base: TrainConfig, where: str) -> Entry:
    setting = key.partition("@")[0]
    known = {**flatten(base.to_dict()), POLICY: "none", STRENGTH: 0.5}
    at = f"{where}: {key}"
    if setting in _BUDGET:
        raise ConfigError(f"{at}: every trial has the same; use {_BUDGET[setting]}")
    if setting in _NOT_SEARCHED:
        raise ConfigError(f"{at}: this is not searched; it decides no accuracy")
    if setting not in known:
        near = difflib.get_close_matches(setting, known, 3)
        hint = f"did you mean {' or '.join(near)}" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"{at}: no such setting; {hint}")
    if not isinstance(value, dict):
        value = {"choices": value if isinstance(value, list) else [value]}
    unknown = value.keys() - {"choices", "low", "high", "log", "when"}
    if unknown:
        raise ConfigError(f"{at}: unknown {sorted(unknown)}; a range has low, high, log and when")
    when = _when(value.get("when", {}), at)
    if "choices" in value:
        choices = _choices(value, at)
        if setting == POLICY and (odd := [c for c in choices if c not in POLICIES]):
            raise ConfigError(f"{at}: no policy {odd[0]!r}; there are {', '.join(POLICIES)}")
        return Entry(name=key, choices=choices, when=when)
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    numbers = [v for v in (low, high) if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != 2 or not isinstance(log, bool):
        raise ConfigError(f"{at}: a range needs numbers low and high, and log true or false")
    if numbers[0] >= numbers[1]:
        raise ConfigError(f"{at}: low ({low}) must be below high ({high})")
    if log and numbers[0] <= 0:
        raise ConfigError(f"{at}: low must be above 0 on a log scale, not {low}")
    if isinstance(known[setting], str | bool):
        raise ConfigError(f"{at}: a range is of numbers; give a list of choices")
    whole = isinstance(known[setting], int)
    if whole and not all(isinstance(n, int) for n in numbers):
        raise ConfigError(f"{at}: low and high must be whole numbers")
    return Entry(name=key, low=numbers[0], high=numbers[1], log=log, whole=whole, when=when)


def _choices(value: Mapping[str, Any], at: str) -> tuple[Value, ...]:
    choices = value["choices"]
    if {"low", "high", "log"} & value.keys():
        raise ConfigError(f"{at}: choices or low and high, not both")
    plain = isinstance(choices, list) and all(isinstance(c, Value) for c in choices)
    if not plain or not choices or len(set(choices)) < len(choices):
        raise ConfigError(f"{at}: choices must be a list of different plain values")
    return tuple(choices)


def _when(value: Any, at: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(value, dict):
        raise ConfigError(f'{at}: when is a table, such as {{ "optimizer.name" = ["sgd"] }}')
    found = {}
    for name, of in _unnested(value).items():
        values = of if isinstance(of, list) else [of]
        if not all(isinstance(v, Value) for v in values):
            raise ConfigError(f"{at}: when {name} must be a plain value, or a list of some")
        found[name] = tuple(values)
    return found


def _ordered(entries: Sequence[Entry], own: Collection[str], where: str) -> tuple[Entry, ...]:
    """Return the entries, each after those that it depends on.

    An entry of the default space that can no longer apply is dropped. An entry of the file (`own`)
    that can never apply is a mistake.
    """
    by_name = {entry.name: entry for entry in entries}
    done: dict[str, Entry] = {}
    todo = []
    for entry in entries:
        todo.append(entry)
        for name, values in entry.when.items():
            if name not in by_name:
                raise ConfigError(
                    f"{where}: {entry.name}: its when names {name}, which is not here"
                )
            there = by_name[name].choices
            if not there or set(values) & set(there):
                continue
            if entry.name in own:
                raise ConfigError(
                    f"{where}: {entry.name}: {name} is never {' or '.join(map(str, values))};"
                    f" it may be {', '.join(map(str, there))}"
                )
            todo.remove(entry)
            break
    while todo:
        ready = [entry for entry in todo if all(name in done for name in entry.when)]
        if not ready:
            raise ConfigError(f"{where}: {todo[0].name}: its when depends on itself")
        done |= {entry.name: entry for entry in ready}
        todo = [entry for entry in todo if entry.name not in done]
    return tuple(done.values())


def _check(space: Space, where: str) -> None:
    """Build configs with the extreme values of each entry, and random ones: all must be valid.

    Raises:
        ConfigError: One is not, such as an odd batch where photos are mixed.
    """
    usual = space.nearest(space.base)
    for entry in space.entries:
        for end in entry.ends():
            others = {n: v for n, v in usual.items() if n.partition("@")[0] != entry.setting}
            # With the values under which it applies, such as a policy for its strength.
            others |= {n: of[0] for n, of in entry.when.items()}
            try:
                space.config({**others, entry.name: end})
            except ConfigError as error:
                raise ConfigError(f"{where}: {entry.name} = {end}: {error}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(_RANDOM_CONFIGS):
        trial = study.ask()
        try:
            space.suggest(trial)
        except ConfigError as error:
            tried = ", ".join(f"{name} = {value}" for name, value in trial.params.items())
            raise ConfigError(f"{where}: {error}; so with {tried}") from error
    setting_of: dict[str, Entry] = {}
    for entry in space.entries:
        other = setting_of.setdefault(entry.setting, entry)
        if other is not entry and _overlap(other, entry):
            raise ConfigError(
                f"{where}: {other.name} and {entry.name} can apply at once; give each a when that"
                " the other has not"
            )


def _overlap(one: Entry, other: Entry) -> bool:
    shared = one.when.keys() & other.when.keys()
    return all(set(one.when[name]) & set(other.when[name]) for name in shared)
