"""`hansang tune`: a search, its report, and the final run of the winner."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from photo_folder.names import shell
from storage import require_writable
from terminal import print_json, print_table, progress, say
from training.cli.options import CacheDir, Device, Json, StopWithParent, StudiesDir
from training.cli.photos import look, prepared, title_of

if TYPE_CHECKING:
    from training.reports.gain import Gain
    from training.tuning.final import Final
    from training.tuning.search import Outcome
    from training.tuning.study import Study


def tune(
    data: Annotated[
        Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each trial.")] = 20,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in all; a study that exists may be given more.")
    ] = 40,
    study: Annotated[
        str | None,
        typer.Option(help="Name; one that exists goes on.", show_default="<DATA's name>-tune"),
    ] = None,
    space: Annotated[
        str, typer.Option(help="default, or a TOML file that changes it (docs/guides/tuning.md).")
    ] = "default",
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="HANSANG_STORAGE",
            help="URL of the study's database: postgresql://… for several machines.",
            show_default="SQLite in the study's folder",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes on this machine; more may join from others.")
    ] = 1,
    recipe: Annotated[
        str, typer.Option(help="Recipe that settings which are not searched are taken from.")
    ] = "scratch",
    image_size: Annotated[
        int, typer.Option(min=32, max=512, help="Side of the square, in pixels.")
    ] = 224,
    pruning: Annotated[
        bool, typer.Option("--pruning/--no-pruning", help="Give up trials that fall behind.")
    ] = True,
    final: Annotated[
        int, typer.Option(min=0, help="Train the winner, and the recipes, for so many epochs.")
    ] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of the final run, from the one after --seed on.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Decides the search and every trial.")] = 0,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of a worker.", show_default="its share of cores"),
    ] = None,
    runs_dir: StudiesDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
    stop_with_parent: StopWithParent = False,
    most: Annotated[
        int | None,
        typer.Option(hidden=True, help="As a worker: so many trials at most, and no report."),
    ] = None,
) -> None:
    """Search for better settings: optimizer, schedule, augmentation, batch, balance and the like.

    Trial 0 is the baseline recipe, trial 1 the one that the search starts from. Optuna's TPE
    proposes the others; what falls behind at a quarter or half of its epochs is given up (judged as
    if its schedule ended there). Every trial is a run directory in RUNS/STUDY.

    Stopped or killed, the same command goes on exactly; given in a second terminal, or on a machine
    that shares RUNS and the --storage, it joins in. `optuna-dashboard STORAGE` shows it live.

    Example: hansang tune photos --trials 24 --image-size 64 --final 50
    """
    from training.loop.stopping import stop_at_end_of_input, stop_on_signals

    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    folder = look(data, cache_dir)
    name = study or f"{title_of(data)}-tune"
    require_writable(runs_dir / name, "--runs-dir")
    from training.recipes import recipe as recipe_of
    from training.tuning.final import train_final
    from training.tuning.search import work
    from training.tuning.space_file import read_space
    from training.tuning.storages import failing_in_words
    from training.tuning.study import Plan, open_study
    from training.tuning.workers import run_workers, started

    budget = {"epochs": epochs, "image_size": image_size, "seed": seed}
    found = read_space(space, recipe_of(recipe).with_overrides(budget))
    cache = prepared(folder, image_size, cache_dir)
    plan = Plan(
        name=name, recipe=recipe, epochs=epochs, image_size=image_size, seed=seed, pruning=pruning,
        dataset_hash=cache.dataset_hash, space=found.to_dict(),
    )  # fmt: skip
    opened = open_study(plan, runs_dir, storage, found)
    stop = stop_on_signals()
    share = threads or max(len(os.sched_getaffinity(0)) // workers, 1)
    done: list[Outcome] = []
    arguments = [
        str(data), "--epochs", str(epochs), "--trials", str(trials), "--study", name,
        "--space", space, "--recipe", recipe, "--image-size", str(image_size),
        "--seed", str(seed), "--device", device, "--threads", str(share),
        "--runs-dir", str(runs_dir), "--cache-dir", str(cache_dir),
        "--pruning" if pruning else "--no-pruning",
    ]  # fmt: skip
    if storage is not None and workers > 1:
        # Not an argument: everybody on the machine could read its password there.
        os.environ["HANSANG_STORAGE"] = storage
    with progress("tune") as report, failing_in_words():
        if workers == 1:
            done = work(opened, cache, trials=trials, most=most, device=device, threads=share,
                        should_stop=stop.is_set, progress=report)  # fmt: skip
        else:
            run_workers(arguments, workers, opened, trials=trials, should_stop=stop.is_set,
                        progress=report)  # fmt: skip
    reached = None
    if final:
        arguments += ["--final", str(final), "--seeds", str(seeds), "--most", "0"]
        # Not the search's seed: the winner is the one that it suited best.
        others = range(seed + 1, seed + 1 + seeds)
        helpers = started(arguments, workers - 1, opened.folder)
        with progress("final") as report, failing_in_words(), helpers:
            reached = train_final(
                opened, cache, epochs=final, seeds=others, device=device,
                should_stop=stop.is_set, progress=report,
            )  # fmt: skip
    if most is not None:
        print_json([one.to_dict() for one in done])
        return
    page = _report(opened, reached)
    _show(opened, reached, page, as_json)


def _report(study: "Study", final: "Final | None") -> Path | None:
    """Write the study's page; a search that is done never fails for its report."""
    try:
        from training.tuning import study_report

        return study_report.write(study.folder, study.optuna, final)
    except Exception as error:
        say(f"no report: {error}")
        return None


def _show(study: "Study", final: "Final | None", page: Path | None, as_json: bool) -> None:
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
    rows: list[list[Any]] = []
    for one in found[:10]:
        value = "–" if one.state != "complete" or one.value is None else f"{one.value:.1%}"
        setting = one.recipe or ", ".join(
            f"{key.partition('@')[0]} {v:.3g}" if isinstance(v, float)
            else f"{key.partition('@')[0]} {v}"
            for key, v in one.params.items()
        )  # fmt: skip
        rows.append([one.number, value, f"{one.state} ({one.epochs})", setting])
    print_table(f"Best of {len(found)} trials", ["trial", "top-1", "epochs", "settings"], rows)
    if final is not None:
        _show_final(final)
    say(f"pruning saved {numbers['saved_share']:.0%} of the epochs; the study: {study.folder}")
    if page:
        say(f"report: {page}")
    if final is None and numbers["best_trial"] is not None:
        say("train the winner for longer: the same command with --final 50")
    elif final is not None:
        say(f"release it: hansang release {shell(final.runs[0])}")


def _show_final(final: "Final") -> None:
    def span(gain: "Gain") -> str:
        return (f"{gain.value * 100:+.1f} points (95 %: {gain.low * 100:+.1f} to"
                f" {gain.high * 100:+.1f}), from {gain.first:.1%}")  # fmt: skip

    seeds = len(final.runs)
    more = f" ± {final.half_interval:.1%} over {seeds} seeds" if seeds > 1 else " (one seed)"
    rows = [["validation top-1, best epoch", f"{final.val_top1:.1%}{more}"]]
    rows += [[f"gain over {one.recipe}", span(one.val)] for one in final.over]
    if final.test_top1 is not None:
        rows.append(["test top-1, the same epoch", f"{final.test_top1:.1%}"])
        rows += [[f"gain over {one.recipe}", span(one.test)] for one in final.over if one.test]
    else:
        rows.append(["test top-1", "these photos have no test split"])
    title = f"Trial {final.trial}, {final.epochs} epochs"
    print_table(title, ["what", "value"], rows)
