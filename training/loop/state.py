"""All that a run resumes from, as tensors by name, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.loop.step import Engine
from training.runs.checkpoint import part


def tensors_of(engine: Engine) -> dict[str, Tensor]:
    """Return all that a run resumes from, by name: the model, its average, the optimizer."""
    tensors = {f"model.{name}": value for name, value in engine.model.state_dict().items()}
    if engine.average is not None:
        average = engine.average.state_dict()
        tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, values in engine.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return tensors


def restore(engine: Engine, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors back; each keeps the device and layout that its owner has."""
    engine.model.load_state_dict(part(tensors, "model."))
    if engine.average is not None:
        engine.average.load_state_dict(part(tensors, "average."))
    parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    groups = engine.optimizer.state_dict()["param_groups"]
    engine.optimizer.load_state_dict({"state": state, "param_groups": groups})
