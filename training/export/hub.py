"""A run's best epoch in the layout of the model hub: torchvision's names, timm's config, a card.

model.safetensors   every weight under torchvision's names for ResNet18, the head as well
config.json         what timm builds the network and its photos' preparation from
README.md           the model card; card.json is the same for programs

`timm.create_model("local-dir:DIR", pretrained=True)` loads the folder, and so does
`torchvision.models.resnet18(num_classes=K).load_state_dict(load_file("DIR/model.safetensors"))`.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from training.data.cache import MEAN, STD
from training.errors import ExportError, RunError
from training.files import write_text
from training.runs import checkpoint, run_directory

WEIGHTS = "model.safetensors"


def export(run_dir: Path, out: Path, *, card: Mapping[str, str]) -> Path:
    """Write the folder, whole or not at all; return it.

    Args:
        run_dir: The run directory.
        out: A folder that is not there yet.
        card: Name → text of the files that describe the model.

    Raises:
        RunError: The run has no best epoch, or its checkpoint is damaged.
        ExportError: The folder is there already, or cannot be written.
    """
    about = run_directory.read(run_dir)
    best = run_dir / "checkpoints" / checkpoint.BEST
    if about is None or not best.is_file():
        raise RunError(f"{run_dir} has no best epoch to export; train it first: hansang train")
    if out.exists():
        raise ExportError(f"{out} is there already; give a folder that is not, with --to")
    tensors, _ = checkpoint.load(best)
    temporary = out.with_name(f".{out.name}.unfinished")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _save(checkpoint.model_tensors(tensors), temporary / WEIGHTS)
        config = _config(about, json.loads((run_dir / "result.json").read_text("utf-8")))
        write_text(temporary / "config.json", json.dumps(config, ensure_ascii=False, indent=1))
        for name, text in card.items():
            write_text(temporary / name, text)
        temporary.rename(out)
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} is not finished: it has no {error.filename}") from error
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},  # transformers and timm look for it
    )


def _config(about: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's config: how the network is built, and what its photos are made into."""
    labels, size = list(about["labels"]), about["config"]["image_size"]
    return {
        "architecture": "resnet18",
        "num_classes": len(labels),
        "num_features": 512,
        "label_names": labels,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 224 / 256,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": len(labels),
            "pool_size": [-(-size // 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        # What timm does not know, and a server of ours does.
        "hansang": {
            "temperature": result["temperature"],
            "flip_average": about["config"].get("flip_average", False),
            "dataset_hash": about["dataset_hash"],
        },
    }
