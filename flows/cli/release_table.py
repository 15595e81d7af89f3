"""What the verbs `release` and `pipeline` print of a release."""

import json
from dataclasses import asdict
from typing import Any

from photo_folder.names import shell
from terminal import print_json, print_table, say


def print_release(decided: Any, as_json: bool) -> None:
    """Print what became of a candidate: the decision, and what was measured."""
    from storage import shown

    if as_json:
        print_json(json.loads(json.dumps(asdict(decided), default=shown)))
        return
    candidate = decided.candidate
    verdict = candidate.verdict
    before = verdict["champion_top1"]
    serving = f"{before:.2%}" if before is not None else "nothing"
    print_table(
        "Released" if decided.released else "Not released",
        ["what", "value"],
        [
            ["decision", decided.reason],
            ["model", f"{decided.model} version {decided.version}"],
            ["file", shown(decided.path) if decided.path else "none"],
            ["best epoch", candidate.epoch],
            ["validation top-1", f"{candidate.val_top1:.2%}"],
            [f"{candidate.split} top-1, {verdict['photos']} photos",
             f"{verdict['challenger_top1']:.2%} (serving: {serving})"],
            ["parity", f"{candidate.photos_checked} photos, {candidate.max_difference:.1e}"],
            ["precision", _precision(candidate.precision)],
            ["threshold", candidate.threshold],
            ["smoke call over gRPC", f"{candidate.smoke_photos} photos"],
            ["one photo", f"{candidate.speed_ms[0][0]:.1f} ms"],
        ],
    )  # fmt: skip
    say(f"serve it: hansang serve --repository {shell(shown(decided.repository))}")


def _precision(cost: dict[str, Any]) -> str:
    if cost.get("precision", "fp32") == "fp32":
        return ". ".join(filter(None, ["fp32", cost.get("how"), _bf16(cost.get("bf16"))]))
    return _cost(cost)


def _bf16(found: dict[str, Any] | None) -> str:
    """Return what is said of an fp32 file's bf16; empty for releases that did not measure it."""
    if not found:
        return ""
    if not found["cost"]:
        return f"bf16 on a CPU: not measured, {found['why']}"
    return f"On a CPU {found['verdict']}: {_cost(found['cost'])}"


def _cost(cost: dict[str, Any]) -> str:
    return (
        f"{cost['precision']}: {cost['speedup']:g} x the speed of fp32, top-1"
        f" {cost['val_top1']:.2%} (fp32: {cost['fp32_val_top1']:.2%}), {cost['agreement']:.2%} the"
        " same answers"
    )
