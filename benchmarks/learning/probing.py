"""What kept features save: an epoch of a linear probe with them and without, in one run.

    python -m benchmarks.learning.probing DATA --from RUN [--epochs 3] [--image-size 96] [--json]

The same probe is trained twice, one after the other: first its frozen parts are computed at each
step, then once for all. Both must end with the same accuracies, to the last digit.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ of class folders.")],
    source: Annotated[str, typer.Option("--from", help="The run whose features are probed.")],
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each probe.")] = 3,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 96,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time the epochs of a linear probe, uncached and cached."""
    from training.data.prepare import prepare
    from training.finetuning.search import config_for
    from training.model import pretrained

    start = pretrained.read(source)
    # Views are made where they pay: where there are fewer of them than epochs.
    config = config_for(
        "linear-probe", start, epochs=epochs, image_size=image_size,
        overrides={"transfer.views": epochs - 1},
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        cache = prepare(data, image_size, cache_root=Path(work) / "cache")
        uncached, cached = (
            _epochs(config, cache, Path(work) / name, start, use_features=name == "cached")
            for name in ("uncached", "cached")
        )
    found: dict[str, Any] = {
        "ratio": round(_epoch_s(uncached) / _epoch_s(cached), 1),
        "same_accuracies": [e["val_top1"] for e in uncached] == [e["val_top1"] for e in cached],
        "uncached_epoch_s": round(_epoch_s(uncached), 3),
        "cached_epoch_s": round(_epoch_s(cached), 3),
        "features_s": round(sum(e["features_s"] for e in cached), 2),
        "epochs": epochs,
        "image_size": image_size,
        "photos": len(cache.splits["train"].targets),
    }
    print(
        json.dumps(found, indent=2) if as_json else "\n".join(f"{k}: {v}" for k, v in found.items())
    )


def _epochs(config: Any, cache: Any, run_dir: Path, start: Any, *, use_features: bool) -> Any:
    from training.loop.trainer import train

    train(config, cache, run_dir, device="cpu", start=start, use_features=use_features)
    lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _epoch_s(epochs: list[dict[str, float]]) -> float:
    """Return the median of an epoch's steps and validation; making features is told apart."""
    return statistics.median(epoch["train_s"] + epoch["eval_s"] for epoch in epochs)


if __name__ == "__main__":
    typer.run(main)
