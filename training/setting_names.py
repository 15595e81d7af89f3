"""The names of settings: the dotted ones of `--set`, those of older runs, and what was meant."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.errors import ConfigError


def require_known(names: Iterable[str], known: Sequence[str]) -> None:
    """Check the names of settings, such as `optimizer.lr`, against those that there are.

    Raises:
        ConfigError: A name is unknown; the message names the most similar one, and all others.
    """
    for name in names:
        if name in known:
            continue
        # "lr", or "optimiser.lr".
        alike = [each for each in known if each.rpartition(".")[2] == name]
        alike = alike or difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {' or '.join(alike)}?" if alike else ""
        raise ConfigError(f"no setting {name!r}{hint}; there are {', '.join(known)}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping by dotted name, e.g. `optimizer.lr`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def renamed(values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the nested settings of a run by their present names.

    `augment.off_epochs`, a number of epochs, became `augment.off_share`. A run that does not say
    its epochs has `epochs`.
    """
    augment = values.get("augment")
    if not isinstance(augment, Mapping) or "off_epochs" not in augment:
        return dict(values)
    share = min(int(augment["off_epochs"]) / int(values.get("epochs", epochs)), 1.0)
    kept = {name: value for name, value in augment.items() if name != "off_epochs"}
    return {**values, "augment": {"off_share": share, **kept}}
