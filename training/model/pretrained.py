"""The weights that fine-tuning starts from: read without pickle, checked name by name.

a run directory       its best epoch
.safetensors .pth     a state dict under torchvision's names for ResNet18, however wrapped
torchvision           its published ImageNet weights, downloaded
hf-hub:OWNER/NAME     a model on the hub, downloaded; timm:NAME is one of timm's
a released model      the run that it was exported from: the ONNX file has BatchNorm folded into its
                      convolutions, which cannot be trained as before
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.config import TrainConfig
from training.errors import ConfigError, RunError
from training.model import hub
from training.model.cached_features import digest
from training.model.resnet import build
from training.model.state_dicts import HEADS, is_plain, network_of, weights_in
from training.runs import checkpoint, run_directory

MOST_BYTES = 2**30
"""The largest file of weights that is read; ResNet18 has 45 MB."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pth.tar", ".bin")
_TIMEOUT_S = 30.0
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights to start from, without the head."""

    name: str
    """Where they come from, for people."""
    tensors: dict[str, Tensor] = field(repr=False)
    """By torchvision's names, float32; no `fc`."""
    sha256: str
    photos: Path | None = None
    """The dataset cache that they were trained on, if it is known."""
    image_size: int | None = None
    """The side in pixels that they were trained at, if it is known."""

    @property
    def about(self) -> dict[str, Any]:
        """Return what `config.json` of a run records about them."""
        return {
            "from": self.name,
            "sha256": self.sha256,
            "cache": None if self.photos is None else str(self.photos),
        }

    def for_config(self, config: TrainConfig) -> dict[str, Tensor]:
        """Return the weights, if they are the ones that a config names.

        Raises:
            RunError: The config names other weights.
        """
        if config.transfer.weights != self.sha256:
            raise RunError(
                f"{self.name} has other weights than the run began with"
                f" ({self.sha256[:12]}, not {config.transfer.weights[:12]})"
            )
        return self.tensors


def read(source: str | Path) -> Start:
    """Read a run directory, a file, or torchvision's published weights.

    Raises:
        ConfigError: There is no such source, or its weights are not those of a ResNet18; the
            message names the differences.
        RunError: The run has no best epoch, or its checkpoint is damaged.
    """
    if source == "torchvision":
        return _torchvision()
    if str(source).startswith(hub.PREFIXES):
        return _checked(_file(hub.download(str(source), most_bytes=MOST_BYTES)), str(source))
    path = Path(source)
    if path.is_dir():
        return _run(path)
    if path.is_file():
        return _checked(_file(path), str(path))
    raise ConfigError(
        f"no weights at {source}: give a run directory, a file ({', '.join(SUFFIXES)}),"
        " torchvision, or hf-hub:OWNER/NAME"
    )


def released(onnx_path: Path, name: str, runs_dir: Path) -> Start:
    """Read the run that a released model was exported from.

    Raises:
        RunError: The run is gone, or its best epoch is no longer the released one.
    """
    import onnx

    proto = onnx.load(onnx_path)
    about = {prop.key: prop.value for prop in proto.metadata_props}
    run_id, epoch = about.get("run_id", ""), about.get("epoch", "")
    heads = [i for i in proto.graph.initializer if i.name == "model.fc.weight"]
    head = torch.from_numpy(onnx.numpy_helper.to_array(heads[0]).copy()) if heads else None
    # The file has only the run's name, and the runs of a study lie in its folder.
    for config in sorted(runs_dir.glob(f"**/{run_id}/config.json")) if run_id else ():
        best = config.parent / "checkpoints" / checkpoint.BEST
        if not best.is_file():
            continue
        tensors, state = checkpoint.load(best)
        known = json.loads(config.read_text("utf-8"))["dataset_hash"]
        same = known == about.get("dataset_hash") and epoch == str(state["history"][-1]["epoch"])
        if same and head is not None and head.dtype == torch.float32:
            # Of an fp16 or int8 file the weights are rounded, and cannot be compared.
            same = torch.equal(checkpoint.model_tensors(tensors)["fc.weight"], head)
        if same:
            return _run(config.parent, f"{name}, which is ")
    raise RunError(
        f"{name} was exported from epoch {epoch or '?'} of the run {run_id or '?'}, and no run in"
        f" {runs_dir} has these weights: a released file can be served but not trained on (its"
        " BatchNorm is folded), so give --runs-dir, or the run itself: --from RUN"
    )


def _run(run_dir: Path, prefix: str = "") -> Start:
    about = run_directory.read(run_dir)
    best = run_dir / "checkpoints" / checkpoint.BEST
    if about is None or not best.is_file():
        raise RunError(f"{run_dir} has no best epoch to start from; train it: hansang train")
    tensors, state = checkpoint.load(best)
    name = f"{prefix}{run_dir.name} (epoch {state['history'][-1]['epoch']})"
    start = _checked(checkpoint.model_tensors(tensors), name)
    return Start(
        name=name,
        tensors=start.tensors,
        sha256=start.sha256,
        photos=Path(about["cache"]),
        image_size=about["config"]["image_size"],
    )


def _file(path: Path) -> Mapping[str, Any]:
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path} is no file of weights by its name ({', '.join(SUFFIXES)})")
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} is larger than {MOST_BYTES // 2**20} MiB: no ResNet18")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except Exception as error:
        # torch's own message tells how to run what weights_only refuses, which is not safe.
        raise ConfigError(
            f"{path} is damaged, or holds more than tensors, which is never run here; save it with"
            " torch.save(model.state_dict(), …) or as safetensors"
        ) from error
    return weights_in(found, str(path))


def _checked(tensors: Mapping[str, Any], name: str) -> Start:
    """Return the weights that ResNet18 needs; raise a ConfigError that names what is wrong."""
    wanted = {k: v for k, v in build(2, seed=0).state_dict().items() if not k.startswith("fc.")}
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in tensors and key not in optional]
    extra = [key for key in tensors if key not in wanted and not key.startswith(HEADS)]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems = [
        f"{what}{', '.join(found[:_SHOWN])}{' and more' if len(found) > _SHOWN else ''}"
        for what, found in (("it lacks ", missing), ("it has ", extra), ("", shapes))
        if found
    ]
    if problems:
        network = network_of(tensors)
        if network and network != "ResNet18":
            raise ConfigError(
                f"{name} holds the weights of a {network}, and only a ResNet18 can be started from"
            )
        raise ConfigError(
            f"{name} has no weights of ResNet18 under torchvision's names: {'; '.join(problems)}"
        )
    rare = [key for key in wanted if key in tensors and not is_plain(tensors[key])]
    if rare:
        raise ConfigError(
            f"{name}: {rare[0]} is quantised, sparse, complex or has no values; save the weights as"
            " they were trained"
        )
    taken = {
        key: tensors[key].to(value.dtype) if key in tensors else value
        for key, value in wanted.items()
    }
    bad = [key for key, value in taken.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise ConfigError(f"{name} is damaged: {bad[0]} has values that are not finite")
    return Start(name=name, tensors=taken, sha256=digest(taken))


def _torchvision() -> Start:
    """Return the weights that torchvision publishes, downloaded or from torch's own cache."""
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ConfigError(
            f"torchvision's weights cannot be downloaded ({error}). Without a connection, put"
            f" {weights.url.rsplit('/', 1)[-1]} into {folder}, or give it: --from FILE.pth"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return _checked(tensors, "torchvision (ImageNet)")
