"""What an hour buys: accuracy against time, by side and epochs.

    python -m benchmarks.learning.frontier photos --runs 64x20,96x20   train, print lines for it
    python -m benchmarks.learning.frontier --draw frontier.png         draw the table

The table is `training/budget/frontier.toml`; `hansang train --within` chooses by it. Times are of
one thread, so train on a machine that does nothing else.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from training.budget.frontier import frontier
from training.pages.figures import SERIES, axes, save

_TICKS_S = (60, 120, 300, 600, 1200, 3600)


def trained(photos: Path, side: int, epochs: int, seed: int) -> tuple[float, float]:
    """Train `scratch`; return its best top-1, a fraction, and its seconds with validation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hansang", "train", photos, "--image-size", side,
                   "--epochs", epochs, "--seed", seed, "--threads", 1, "--run", "r",
                   "--runs-dir", folder]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        text = (Path(folder) / "r" / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
    spent = ("train_s", "eval_s", "save_s")
    return max(line["val_top1"] for line in lines), sum(
        line[key] for line in lines for key in spent
    )


def draw(path: Path) -> None:
    """Draw every run of the table whose time is known."""
    with tempfile.TemporaryDirectory() as folder, axes(6.4, 3.4) as (figure, (axis,)):
        for curve, colour in zip(frontier(), SERIES, strict=False):
            timed = [each for each in curve.runs if each.seconds]
            axis.plot([run.seconds for run in timed], [run.top1 for run in timed], "o-",
                      color=colour, label=f"{curve.image_size} px")  # fmt: skip
            for run in timed:
                axis.annotate(f"{run.epochs}", (run.seconds, run.top1), xytext=(5, -11),
                              textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks(_TICKS_S)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / 60:.0f} min"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("time of training and validation, one core; epochs beside the marks")
        axis.set_ylabel("validation top-1")
        axis.legend()
        save(figure, Path(folder), "frontier", title="What an hour buys", alt="")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder) / "frontier.png", path)


def main() -> None:
    """Train and print, or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("--runs", default="64x20", metavar="SIDExEPOCHS,…")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=Path, metavar="PNG")
    given = parser.parse_args()
    if given.draw:
        return draw(given.draw)
    if given.photos is None:
        parser.error("give a folder of photos to train on, or --draw PNG")
    for each in given.runs.split(","):
        side, epochs = map(int, each.split("x"))
        top1, seconds = trained(given.photos, side, epochs, given.seed)
        print(f"image_size = {side}: [{epochs}, {100 * top1:.1f}, {seconds:.0f}]", flush=True)
    return None


if __name__ == "__main__":
    main()
