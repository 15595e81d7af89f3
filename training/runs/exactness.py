"""Whether a run goes on to the bits that it would have had, had nobody stopped it.

What decides them stands in `config.json`: the settings, the photos, and under `computing` the
machine: device, precision, compiled or not, processes, threads, version of torch.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from training.config import TrainConfig
from training.errors import RunError
from training.setting_names import flatten

_COMPUTING = {"config.threads": "threads", "config.precision": "precision",
              "config.compile": "compiled"}  # fmt: skip
"""Settings that are compared as what became of them on the machine."""


def continued(
    about: Mapping[str, Any], wanted: Mapping[str, Any], computing: Mapping[str, Any], name: str, *,
    step: int = 0, extend: bool = False, accept_changes: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return what `config.json` is to hold of a run that goes on.

    Args:
        about: What it holds.
        wanted: The settings, the labels and the hash of the photos, as they are given now.
        computing: What computes now; what is not known may be missing.
        name: What an error calls the run.
        step: The step that it goes on at.
        extend: Allow more epochs.
        accept_changes: Allow another way of computing, and note it.

    Raises:
        RunError: It is another run, or would go on to other bits; the message lists what differs.
    """
    # A run from before a setting existed was trained with its default.
    known = TrainConfig.from_dict(about["config"]).to_dict()
    there = flatten({**{key: about.get(key) for key in wanted}, "config": known})
    now = flatten(wanted)
    others = [key for key in _differing(there, now) if key not in _COMPUTING]
    more_epochs = extend and known["epochs"] < wanted["config"]["epochs"]
    if others and not (more_epochs and others == ["config.epochs"]):
        raise RunError(
            f"{name} is another run: {_listed(others, there, now)}. Give the settings it began"
            " with, or choose another --run (--extend allows more epochs, and nothing else)"
        )
    before = _computed(about, known)
    changes = [key for key in _differing(before, computing) if key in before and key in computing]
    if changes and not accept_changes:
        raise RunError(
            f"{name} would go on to other weights than if it had never stopped:"
            f" {_listed(changes, before, computing)}. Go on as it began, or give --accept-changes,"
            " which the run notes"
        )
    found = {**about, "computing": {**before, **computing}}
    found["threads"] = found["computing"].get("threads", about.get("threads"))
    if others or changes:
        found["config"] = dict(wanted["config"])
    if changes:
        note = {key: [before[key], computing[key]] for key in changes}
        time = datetime.now(UTC).isoformat(timespec="seconds")
        found["accepted"] = [
            *about.get("accepted", ()), {"time": time, "step": step, "changes": note}
        ]  # fmt: skip
    return found


def _computed(about: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what computed a run; of one that does not say it, what else it says."""
    if "computing" in about:
        return dict(about["computing"])
    found = {"torch": about.get("versions", {}).get("torch"), "threads": about.get("threads")}
    if config["precision"] != "auto":
        found["precision"] = config["precision"]
    if config["compile"] != "auto":
        found["compiled"] = config["compile"]
    return {key: value for key, value in found.items() if value is not None}


def _differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*there, *now}) if there.get(key) != now.get(key)]


def _listed(names: Iterable[str], there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {there.get(name)} there, {now.get(name)} now" for name in names)
