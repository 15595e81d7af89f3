"""Trials an hour of `hansang tune`, against plain Optuna over a DataLoader loop, on one machine.

    python -m benchmarks.learning.tuning DATA [--trials 2] [--epochs 2] [--photos 640] [--json]

ours        the command itself: cache from cold, checkpoint each epoch, storage, no pruning
reference   Optuna's own loop over torchvision's: ImageFolder, DataLoader with 2 workers, transforms

Both search learning rate and weight decay of the same network, first the baseline (batch 32, no
augmentation), then batch 64 with crops, flips and colours; both validate after each epoch. Pruning
is off in both: what it saves comes on top, and is a figure of its own. They take turns, each in a
process of its own, and the medians of the turns are compared. Start and data are counted in. On a
machine that others use too, the seconds of CPU that a trial costs tell more than the clock.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]

SPACE = """
"optimizer.name" = "sgd"
"optimizer.lr" = { low = 0.005, high = 0.2, log = true }
"optimizer.weight_decay" = { low = 1e-5, high = 0.01, log = true }
"optimizer.momentum" = 0.9
"optimizer.ema" = 0.0
"scheduler.name" = "cosine"
"augment.policy" = "standard"
"augment.strength" = 0.5
batch_size = 64
label_smoothing = 0.1
balance = "none"
"""


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ of class folders.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials in each turn.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each trial.")] = 2,
    photos: Annotated[int, typer.Option(help="Photos to train on; half as many validate.")] = 640,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; medians are compared.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    reference: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time a small search, ours and the usual way."""
    if reference is not None:
        _reference(reference, trials, epochs, image_size)
        return
    from benchmarks.learning.training import _machine

    rates: dict[str, list[float]] = {"ours": [], "reference": []}
    cpu_s: dict[str, list[float]] = {"ours": [], "reference": []}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        _part(data, work / "photos", photos)
        (work / "space.toml").write_text(SPACE)
        for turn in range(repeats):
            for kind, rows in rates.items():
                print(f"turn {turn + 1} of {repeats}: {kind}", file=sys.stderr)
                wall_s, used_s = _seconds(kind, work, trials, epochs, image_size)
                rows.append(trials * 3600 / wall_s)
                cpu_s[kind].append(used_s / trials)
    medians = {kind: statistics.median(rows) for kind, rows in rates.items()}
    used = {kind: statistics.median(rows) for kind, rows in cpu_s.items()}
    result = {
        "trials_per_hour": {kind: round(value, 1) for kind, value in medians.items()},
        "ours_over_reference": round(medians["ours"] / medians["reference"], 3),
        "cpu_s_per_trial": {kind: round(value, 1) for kind, value in used.items()},
        "cpu_reference_over_ours": round(used["reference"] / used["ours"], 3),
        "turns": {kind: [round(rate, 1) for rate in rows] for kind, rows in rates.items()},
        "trials": trials, "epochs": epochs, "photos": photos, "image_size": image_size,
        "machine": _machine(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for kind, rate in medians.items():
        print(f"{kind:12}{rate:>10.1f} trials an hour")
    print(f"ours over reference: {result['ours_over_reference']}")
    print(f"CPU seconds, reference over ours: {result['cpu_reference_over_ours']}")


def _part(data: Path, out: Path, photos: int) -> None:
    """Copy so many photos, spread over the classes, and half as many to validate."""
    for split, wanted in (("train", photos), ("val", photos // 2)):
        classes = sorted(path for path in (data / split).iterdir() if path.is_dir())
        for number, of_class in enumerate(classes):
            share = wanted * (number + 1) // len(classes) - wanted * number // len(classes)
            (out / split / of_class.name).mkdir(parents=True)
            for photo in sorted(of_class.iterdir())[: max(share, 2)]:
                shutil.copy(photo, out / split / of_class.name)


def _seconds(
    kind: str, work: Path, trials: int, epochs: int, image_size: int
) -> tuple[float, float]:
    """Return how long a search took, from start to end, and what it used of the CPUs."""
    same = ["--trials", str(trials), "--epochs", str(epochs), "--image-size", str(image_size)]
    command = [
        sys.executable, "-m", "benchmarks.learning.tuning", str(work), *same,
        "--reference", str(work / "photos"),
    ]  # fmt: skip
    if kind == "ours":
        for name in ("runs", "cache"):
            shutil.rmtree(work / name, ignore_errors=True)
        command = [
            sys.executable, "-m", "hansang", "tune", str(work / "photos"), *same, "--no-pruning",
            "--recipe", "baseline", "--space", str(work / "space.toml"), "--most", str(trials),
            "--runs-dir", str(work / "runs"), "--cache-dir", str(work / "cache"),
        ]  # fmt: skip
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HANSANG_PROGRESS_S": "1e9"},
    )  # fmt: skip
    wall_s, after = time.perf_counter() - started_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _reference(photos: Path, trials: int, epochs: int, image_size: int) -> None:
    """Search as Optuna's examples do, over the loop of torchvision's references."""
    import optuna

    def objective(trial: Any) -> float:
        if trial.number == 0:
            return _train(photos, epochs, image_size, batch=32, lr=0.001, decay=0.0, plain=True)
        lr = trial.suggest_float("lr", 0.005, 0.2, log=True)
        decay = trial.suggest_float("weight_decay", 1e-5, 0.01, log=True)
        return _train(photos, epochs, image_size, batch=64, lr=lr, decay=decay, plain=False)

    optuna.create_study(direction="maximize").optimize(objective, n_trials=trials)


def _train(
    photos: Path, epochs: int, image_size: int, *, batch: int, lr: float, decay: float, plain: bool
) -> float:
    import torch
    from torch.nn import functional as F
    from torchvision import datasets, transforms
    from torchvision.models import resnet18

    finish = [
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    centre = [transforms.Resize(image_size * 256 // 224), transforms.CenterCrop(image_size)]
    changes = [
        transforms.RandomResizedCrop(image_size, scale=(0.35, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3),
    ]
    loaders = [
        torch.utils.data.DataLoader(
            datasets.ImageFolder(str(photos / split), transforms.Compose([*first, *finish])),
            batch, shuffle=split == "train", num_workers=2,
        )
        for split, first in (("train", centre if plain else changes), ("val", centre))
    ]  # fmt: skip
    model = resnet18(num_classes=len(loaders[0].dataset.classes))  # type: ignore[attr-defined]
    momentum = 0.0 if plain else 0.9
    optimizer = torch.optim.SGD(
        model.parameters(), lr, momentum=momentum, nesterov=not plain, weight_decay=decay
    )
    steps = epochs * len(loaders[0])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = 0.0
    for _ in range(epochs):
        model.train()
        for images, targets in loaders[0]:
            smoothing = 0.0 if plain else 0.1
            loss = F.cross_entropy(model(images), targets, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not plain:
                schedule.step()
        model.eval()
        right = count = 0
        with torch.no_grad():
            for images, targets in loaders[1]:
                right += int((model(images).argmax(1) == targets).sum())
                count += len(targets)
        best = max(best, right / count)
    return best


if __name__ == "__main__":
    typer.run(main)
