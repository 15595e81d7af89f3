"""How fast training is, against the limit and against the usual loop, in one run on one machine.

    python -m benchmarks.learning.training DATA [--image-size 64] [--photos 512] [--json]

limit       torchvision's ResNet18: forward, backward and optimizer step on tensors that lie ready
ours        the trainer's own loop, augmentation and photos from the cache
reference   the loop of torchvision's references: ImageFolder, DataLoader with 2 workers, transforms
timm        timm's loader, model and optimizer, where timm is installed (`pip install timm`)

In fp32, and where the CPU has units for it the first three in bf16, too: ours takes it by itself
then, the others as `torch.autocast` gives it. Validation is in fp32 and not in any figure.

Each is a process of its own, so that its peak memory is its own. They take turns, and the medians
of the repeats are compared. The first epoch of ours includes building the cache and writing the
run's files, the reference's starting its workers; both begin with the photos in the page cache.
"""

import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from machine import num_cores

ROOT = Path(__file__).resolve().parents[2]
BATCH = 64


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ of class folders.")],
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    photos: Annotated[int, typer.Option(help="Photos to time in each turn.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; medians are compared.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    kind: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time training steps: the limit, ours, the reference loop and, where installed, timm's."""
    if kind is not None:
        print(json.dumps(_measure(kind, data, image_size, photos)))
        return
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kinds = _kinds()
    turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for turn in range(repeats):
        for kind in kinds:
            print(f"turn {turn + 1} of {repeats}: {kind}", file=sys.stderr)
            done = subprocess.run(
                [
                    sys.executable, "-m", "benchmarks.learning.training", str(data), "--image-size",
                    str(image_size), "--photos", str(photos), "--kind", kind,
                ],
                check=True, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": path, "HANSANG_PROGRESS_S": "1e9"},
            )  # fmt: skip
            turns[kind].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        kind: {name: statistics.median(turn[name] for turn in rows) for name in rows[0]}
        for kind, rows in turns.items()
    }
    ratios = _ratios(medians)
    result = {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "medians": medians,
        "image_size": image_size,
        "batch_size": BATCH,
        "machine": _machine(),
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':16}{'photos/s':>10}{'first epoch s':>15}{'peak MiB':>10}")
    for kind, row in medians.items():
        first = f"{row['first_epoch_s']:.1f}" if row["first_epoch_s"] else "-"
        print(f"{kind:16}{row['photos_per_s']:>10.1f}{first:>15}{row['peak_mib']:>10.0f}")
    for name, value in result["ratios"].items():
        print(f"{name}: {value}")


def _ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return how much faster ours is than what it is compared with, in equal precision first."""

    def over(one: str, other: str) -> dict[str, float]:
        if {one, other} - medians.keys():
            return {}
        speeds = [medians[kind]["photos_per_s"] for kind in (one, other)]
        name = f"{one}_over_{other}".replace("-", "_")
        return {name: speeds[0] / speeds[1]}

    return {
        **over("ours", "limit"), **over("ours", "reference"), **over("ours", "timm"),
        "first_epoch_over_reference": (
            medians["reference"]["first_epoch_s"] / medians["ours"]["first_epoch_s"]
        ),
        **over("ours-bf16", "limit-bf16"), **over("ours-bf16", "reference-bf16"),
        **over("ours-bf16", "reference"),
    }  # fmt: skip


def _kinds() -> list[str]:
    """Return what can be measured here."""
    import torch

    from training.model.device import has_bf16

    kinds = ["limit", "ours", "reference"]
    if has_bf16(torch.device("cpu")):
        kinds += [f"{kind}-bf16" for kind in kinds]
    return [*kinds, *(["timm"] if find_spec("timm") else [])]


def _measure(kind: str, data: Path, image_size: int, photos: int) -> dict[str, float]:
    """Return what one turn of one kind gave, in this process."""
    work = Path(tempfile.mkdtemp(prefix="benchmark-"))
    name, _, precision = kind.partition("-")
    measure = {"limit": _limit, "ours": _ours, "reference": _reference, "timm": _timm}[name]
    try:
        found = measure(data, image_size, photos, work, precision or "fp32")
    finally:
        shutil.rmtree(work)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {**found, "peak_mib": peak / 1024}


def _autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def _rate(step: Any, photos: int) -> float:
    """Return photos a second of steps, after three that warm up."""
    for _ in range(3):
        step()
    steps = max(photos // BATCH, 1)
    started_s = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - started_s)


def _limit(
    data: Path, image_size: int, photos: int, work: Path, precision: str
) -> dict[str, float]:
    import torch
    from torch.nn import functional as F
    from torchvision.models import resnet18

    model = resnet18(num_classes=42).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, image_size, image_size)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(0, 42, (BATCH,))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(precision):
            logits = model(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()

    return {"photos_per_s": _rate(step, photos), "first_epoch_s": 0.0}


def _ours(data: Path, image_size: int, photos: int, work: Path, precision: str) -> dict[str, float]:
    """Train an epoch with a cold cache, and time the loop of its steps alone."""
    from training.config import TrainConfig
    from training.data.prepare import prepare
    from training.loop.trainer import train

    started_s = time.perf_counter()
    cache = prepare(data, image_size, cache_root=work / "cache")
    config = TrainConfig.from_dict(
        {"image_size": image_size, "epochs": 1, "batch_size": BATCH, "precision": precision}
    )
    result = train(config, cache, work / "run", device="cpu")
    took_s = time.perf_counter() - started_s
    epoch = json.loads((work / "run" / "metrics.jsonl").read_text())
    # Validation is in neither's first epoch.
    return {"photos_per_s": result.photos_per_s, "first_epoch_s": took_s - epoch["eval_s"]}


def _reference(
    data: Path, image_size: int, photos: int, work: Path, precision: str
) -> dict[str, float]:
    """Train an epoch as torchvision's reference script does, on the same photos."""
    import torch
    from torch.nn import functional as F
    from torchvision import datasets, transforms
    from torchvision.models import resnet18

    changes = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    started_s = time.perf_counter()
    dataset = datasets.ImageFolder(str(data / "train"), changes)
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=2)
    model = resnet18(num_classes=len(dataset.classes))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    model.train()
    count = 0
    for images, targets in loader:
        with _autocast(precision):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += len(targets)
    took_s = time.perf_counter() - started_s
    return {"photos_per_s": count / took_s, "first_epoch_s": took_s}


def _timm(data: Path, image_size: int, photos: int, work: Path, precision: str) -> dict[str, float]:
    """Train an epoch as timm's script does, with the changes that ours makes."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    started_s = time.perf_counter()
    dataset = create_dataset("", root=str(data), split="train")
    loader = create_loader(
        dataset, (3, image_size, image_size), BATCH, is_training=True, use_prefetcher=False,
        scale=(0.35, 1.0), hflip=0.5, color_jitter=0.3, num_workers=2,
    )  # fmt: skip
    model = timm.create_model("resnet18", num_classes=len(dataset.reader.class_to_idx))
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, weight_decay=5e-4)
    loss_of = LabelSmoothingCrossEntropy(0.1)
    model.train()
    count = 0
    for images, targets in loader:
        optimizer.zero_grad()
        loss_of(model(images), targets).backward()
        optimizer.step()
        count += len(targets)
    took_s = time.perf_counter() - started_s
    return {"photos_per_s": count / took_s, "first_epoch_s": took_s}


def _machine() -> dict[str, Any]:
    import torch

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": model,
        "cores": num_cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
    }


if __name__ == "__main__":
    typer.run(main)
