"""How fast training is, against the limit and against the usual loop, in one run on one machine.

    python benchmarks/training.py DATA [--image-size 64] [--photos 512] [--repeats 3] [--json]

limit       forward, backward and optimizer step on tensors that lie ready: nothing can be faster
ours        the trainer's own loop, augmentation and photos from the cache, in fp32 as the rest
ours-bf16   the same as it comes where a CPU has bf16 units: steps in bf16, validation in fp32
reference   the loop of torchvision's references: ImageFolder, DataLoader with 2 workers, transforms
timm        timm's loader, model and optimizer, where timm is installed (`pip install timm`)

Each is a process of its own, so that its peak memory is its own. They take turns, and the medians
of the repeats are compared. The first epoch of ours includes building the cache, the reference's
starting its workers; both begin with the photos in the page cache.
"""

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
from typing import Annotated, Any, Literal

import typer

ROOT = Path(__file__).resolve().parents[1]
if Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    # Run as a script, its folder comes first, and this file would be taken for the package.
    sys.path[0] = str(ROOT)
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
                    sys.executable, __file__, str(data), "--image-size", str(image_size),
                    "--photos", str(photos), "--kind", kind,
                ],
                check=True, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": path, "HANSANG_PROGRESS_S": "1e9"},
            )  # fmt: skip
            turns[kind].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        kind: {name: statistics.median(turn[name] for turn in rows) for name in rows[0]}
        for kind, rows in turns.items()
    }
    ours, limit, reference = (medians[kind] for kind in ("ours", "limit", "reference"))
    ratios = {
        "ours_over_limit": ours["photos_per_s"] / limit["photos_per_s"],
        "ours_over_reference": ours["photos_per_s"] / reference["photos_per_s"],
        "first_epoch_over_reference": reference["first_epoch_s"] / ours["first_epoch_s"],
    }
    if "ours-bf16" in medians:
        ratios["bf16_over_reference"] = (
            medians["ours-bf16"]["photos_per_s"] / reference["photos_per_s"]
        )
    if "timm" in medians:
        ratios["ours_over_timm"] = ours["photos_per_s"] / medians["timm"]["photos_per_s"]
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
    print(f"{'':12}{'photos/s':>10}{'first epoch s':>15}{'peak MiB':>10}")
    for kind, row in medians.items():
        first = f"{row['first_epoch_s']:.1f}" if kind != "limit" else "-"
        print(f"{kind:12}{row['photos_per_s']:>10.1f}{first:>15}{row['peak_mib']:>10.0f}")
    for name, value in result["ratios"].items():
        print(f"{name}: {value}")


def _kinds() -> list[str]:
    """Return what can be measured here."""
    import torch

    from training.device import has_bf16

    return [
        "limit", "ours", *(["ours-bf16"] if has_bf16(torch.device("cpu")) else []),
        "reference", *(["timm"] if find_spec("timm") else []),
    ]  # fmt: skip


def _measure(kind: str, data: Path, image_size: int, photos: int) -> dict[str, float]:
    """Return what one turn of one kind gave, in this process."""
    work = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        if kind.startswith("ours"):
            found = _ours(data, image_size, work, "bf16" if kind.endswith("bf16") else "fp32")
        else:
            measure = {"limit": _limit, "reference": _reference, "timm": _timm}[kind]
            found = measure(data, image_size, photos, work)
    finally:
        shutil.rmtree(work)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {**found, "peak_mib": peak / 1024}


def _rate(step: Any, photos: int) -> float:
    """Return photos a second of steps, after three that warm up."""
    for _ in range(3):
        step()
    steps = max(photos // BATCH, 1)
    started_s = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - started_s)


def _limit(data: Path, image_size: int, photos: int, work: Path) -> dict[str, float]:
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
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return {"photos_per_s": _rate(step, photos), "first_epoch_s": 0.0}


def _ours(
    data: Path, image_size: int, work: Path, precision: Literal["fp32", "bf16"]
) -> dict[str, float]:
    """Train an epoch with a cold cache, and time the loop of its steps alone."""
    from training.config import TrainConfig
    from training.prepare import prepare
    from training.trainer import train

    started_s = time.perf_counter()
    cache = prepare(data, image_size, cache_root=work / "cache")
    built_s = time.perf_counter() - started_s
    config = TrainConfig(image_size=image_size, epochs=1, batch_size=BATCH, precision=precision)
    result = train(config, cache, work / "run", device="cpu")
    # Validation is in neither's first epoch.
    train_s = len(cache.splits["train"].targets) / result.photos_per_s
    return {"photos_per_s": result.photos_per_s, "first_epoch_s": built_s + train_s}


def _reference(data: Path, image_size: int, photos: int, work: Path) -> dict[str, float]:
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
        loss = F.cross_entropy(model(images), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += len(targets)
    took_s = time.perf_counter() - started_s
    return {"photos_per_s": count / took_s, "first_epoch_s": took_s}


def _timm(data: Path, image_size: int, photos: int, work: Path) -> dict[str, float]:
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
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
    }


if __name__ == "__main__":
    typer.run(main)
