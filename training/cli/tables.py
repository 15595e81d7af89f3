"""What the verbs that train print: one result, several seeds, a search, a study of arms."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photo_folder.names import shell
from terminal import print_json, print_table, say

if TYPE_CHECKING:
    from training.ablation.result import AblationResult
    from training.reports.gain import Gain
    from training.runs.result import TrainResult
    from training.tuning.final import Final
    from training.tuning.search import Outcome
    from training.tuning.study import Study

_SHOWN_TRIALS = 10


def print_results(results: "Sequence[TrainResult]", as_json: bool) -> None:
    """Print one result, or the results of several seeds and their mean."""
    from training.evaluation.intervals import mean_interval

    if as_json and len(results) == 1:
        print_json(results[0].to_dict())
        return
    means = {"val_top1": mean_interval([result.val_top1 for result in results])}
    if tests := [result.test_top1 for result in results if result.test_top1 is not None]:
        means["test_top1"] = mean_interval(tests)
    if as_json:
        summary: dict[str, object] = {}
        for name, (mean, half) in means.items():
            summary |= {name: mean, f"{name}_half_interval": half}
        print_json({**summary, "runs": [result.to_dict() for result in results]})
        return
    rows: list[list[object]] = []
    for result in results:
        rows += _accuracies(result, f"{result.run_dir}: " if len(results) > 1 else "")
    if len(results) > 1:
        for name, (mean, half) in means.items():
            what = f"{name.split('_')[0]} top-1, mean of {len(results)} seeds"
            rows.append([what.replace("val ", "validation "), f"{mean:.2%} ± {half:.2%} (95 %)"])
    else:
        rows.append(["calibration error", f"{result.ece_before:.3f}, {result.ece_after:.3f} with"
                     f" temperature {result.temperature}"])  # fmt: skip
        rows.append(["epochs", result.epochs])
    rows.append(["photos/s trained", f"{result.photos_per_s:.0f}"])
    rows.append(["run", results[-1].run_dir])
    print_table("Trained", ["what", "value"], rows)
    say(f"release it: hansang release {shell(results[-1].run_dir)}")


def _accuracies(result: "TrainResult", where: str) -> list[list[object]]:
    from training.evaluation.intervals import method

    def spread(split: str, interval: tuple[float, float]) -> str:
        how = method(result.groups.get(split, 0))
        return f"95 %: {interval[0]:.1%} to {interval[1]:.1%}, {how}"

    found = spread("val", result.val_interval)
    value = f"{result.val_top1:.2%} (epoch {result.best_epoch}; {found})"
    rows: list[list[object]] = [[f"{where}validation top-1, best epoch", value]]
    if result.test_top1 is not None and result.test_interval is not None:
        value = f"{result.test_top1:.2%} ({spread('test', result.test_interval)})"
        rows.append([f"{where}test top-1, the same epoch", value])
    return rows


def print_ablation(result: "AblationResult") -> None:
    """Print a study of arms: its table and its conclusions."""
    from training.evaluation.intervals import over

    rows, groups = [], 0
    for arm in result.arms:
        gain = arm.gain
        groups = gain.groups if gain else groups
        rows.append([
            arm.name, f"{arm.val_top1:.1%}",
            f"± {arm.half_interval:.1%}" if result.seeds > 1 else "–",
            "–" if gain is None else f"{gain.value * 100:+.1f}",
            "–" if gain is None else f"{gain.low * 100:+.1f} to {gain.high * 100:+.1f}",
        ])  # fmt: skip
    print_table(
        f"{result.title}, {result.epochs} epochs, {result.seeds} seeds",
        ["arm", "top-1", "seeds", "points", f"95 % {over(groups)}"], rows,
    )  # fmt: skip
    for sentence in result.conclusion:
        print(sentence)


def print_search(study: "Study", final: "Final | None", page: Path | None, as_json: bool) -> None:
    """Print a search: its best trials, its final runs, and what to do next."""
    from training.tuning.search import outcome, ranking
    from training.tuning.study_report import summary

    found = ranking(study.trials())
    numbers = summary(study.plan, [outcome(trial) for trial in study.trials()])
    if as_json:
        print_json({
            **numbers, "folder": str(study.folder), "report": page and str(page),
            "final": final and final.to_dict(), "trials": [one.to_dict() for one in found],
        })  # fmt: skip
        return
    rows = [_trial(one) for one in found[:_SHOWN_TRIALS]]
    print_table(f"Best of {len(found)} trials", ["trial", "top-1", "epochs", "settings"], rows)
    if final is not None:
        _print_final(final)
    if study.plan.judging:
        say(f"{study.plan.judging} validation photos choose nothing: they judge the final runs")
    say(f"pruning saved {numbers['saved_share']:.0%} of the epochs; the study: {study.folder}")
    if page:
        say(f"report: {page}")
    if final is None and numbers["best_trial"] is not None:
        say("train the winner for longer: the same command with --final 50")
    elif final is not None:
        say(f"release it: hansang release {shell(final.runs[0])}")


def _trial(one: "Outcome") -> list[Any]:
    value = "–" if one.state != "complete" or one.value is None else f"{one.value:.1%}"
    settings = one.recipe or ", ".join(
        f"{key.partition('@')[0]} {v:.3g}" if isinstance(v, float)
        else f"{key.partition('@')[0]} {v}"
        for key, v in one.params.items()
    )  # fmt: skip
    return [one.number, value, f"{one.state} ({one.epochs})", settings]


def _print_final(final: "Final") -> None:
    from training.evaluation.intervals import over

    def span(gain: "Gain") -> str:
        return (f"{gain.value * 100:+.1f} points (95 % {over(gain.groups)}: {gain.low * 100:+.1f}"
                f" to {gain.high * 100:+.1f}), from {gain.first:.1%}")  # fmt: skip

    seeds = len(final.runs)
    more = f" ± {final.half_interval:.1%} over {seeds} seeds" if seeds > 1 else " (one seed)"
    rows = [["validation top-1, best epoch", f"{final.val_top1:.1%}{more}"]]
    rows += [[f"gain over {one.recipe}", span(one.val)] for one in final.over]
    if final.test_top1 is not None:
        rows.append(["test top-1, the same epoch", f"{final.test_top1:.1%}"])
        rows += [[f"gain over {one.recipe}", span(one.test)] for one in final.over if one.test]
    else:
        rows.append(["test top-1", "these photos have no test split"])
    print_table(f"Trial {final.trial}, {final.epochs} epochs", ["what", "value"], rows)
