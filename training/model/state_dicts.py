"""State dicts as people have them: wrapped, prefixed, compiled, and of which network they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.errors import ConfigError

WRAPPERS = (
    "ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model", "shadow", "state_dict",
    "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
)  # fmt: skip
"""Where checkpoints keep the weights; averages come first, since these were validated."""

HEADS = ("fc.", "classifier.", "head.", "last_linear.")
"""What the last layer is called, which nothing starts from."""

_AVERAGES = ("average", "ema")
_FIRST, _BLOCK = "conv1.weight", "layer1.0.conv1.weight"

_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "ResNet18", (False, (3, 4, 6, 3)): "ResNet34",
    (True, (3, 4, 6, 3)): "ResNet50", (True, (3, 4, 23, 3)): "ResNet101",
    (True, (3, 8, 36, 3)): "ResNet152",
}  # fmt: skip
"""Whether blocks are bottlenecks, and how many of them each layer has."""

_OTHERS = {
    "layer_scale": "ConvNeXt",
    "cls_token": "vision transformer", "class_token": "vision transformer",
    "patch_embed": "vision transformer", "denseblock": "DenseNet",
    "embedder.embedder": "ResNet under the names of transformers", "conv_stem": "EfficientNet",
    "features.0.0.weight": "MobileNet or EfficientNet", "stages.0": "ConvNeXt or RegNet",
    "features.0.weight": "VGG or AlexNet", "model.0.conv": "YOLO", "shortcut.0.weight":
    "ResNet for small pictures (CIFAR)", "conv1.0.weight": "ResNet with a deep stem",
}  # fmt: skip


def weights_in(found: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors in what a file holds, by torchvision's names where it is a ResNet.

    Wrappers are opened, the names that `torch.compile` makes are undone, and what stands before
    `conv1` is taken away: `module.`, `model.`, `net.` or whatever it is.

    Raises:
        ConfigError: There is no state dict, or several networks of which none is the average.
    """
    for _ in WRAPPERS:
        if not isinstance(found, Mapping):
            break
        inner = {name: each for name, each in found.items() if isinstance(each, Mapping)}
        known = [name for name in WRAPPERS if name in inner]
        # By another name, such as `model_weights`: what has the network's first layer.
        others = [name for name in inner if any(str(key).endswith(_FIRST) for key in inner[name])]
        if not known and len(others) > 1:
            raise ConfigError(_several(where, others))
        if not (known or others):
            break
        found = inner[(known or others)[0]]
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where} holds no state dict (a mapping of names to tensors)")
    tensors = {
        str(name).replace("_orig_mod.", ""): value
        for name, value in found.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ConfigError(f"{where} holds no state dict (a mapping of names to tensors)")
    prefix = _prefix(tensors, where)
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def network_of(tensors: Mapping[str, Tensor]) -> str:
    """Return what network weights are of, such as `ResNet34`; empty if that cannot be told."""
    depths = tuple(
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{number}.")})
        for number in (1, 2, 3, 4)
    )
    name = _DEPTHS.get(("layer1.0.conv3.weight" in tensors, depths), "")
    second = tensors.get("layer1.0.conv2.weight")
    if name and second is not None and "layer1.0.conv3.weight" in tensors:
        if second.shape[0] != second.shape[1]:
            return f"ResNeXt like {name}"
        if second.shape[0] > 64:
            return f"wide {name}"
    if name and not any("shortcut.0.weight" in each for each in tensors):
        return name
    return next((net for mark, net in _OTHERS.items() if any(mark in t for t in tensors)), "")


def _prefix(tensors: Mapping[str, Tensor], where: str) -> str:
    """Return what stands before the names of the network; empty if there is none."""
    found = sorted(
        name.removesuffix(_FIRST)
        for name in tensors
        if name.endswith(_FIRST) and f"{name.removesuffix(_FIRST)}{_BLOCK}" in tensors
    )
    averages = [each for each in found if any(word in each for word in _AVERAGES)]
    if len(found) > 1 and len(averages) != 1:
        raise ConfigError(_several(where, found))
    return (averages or found or [""])[0]


def _several(where: str, names: Iterable[object]) -> str:
    return (
        f"{where} holds several networks ({', '.join(map(str, names))}); save the one to start from"
        " alone: torch.save(model.state_dict(), …)"
    )


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor has a real number at each place, as weights in training have."""
    plain = tensor.layout is torch.strided and not tensor.is_meta
    return plain and not tensor.is_quantized and not tensor.is_complex()
