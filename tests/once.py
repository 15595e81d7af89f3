"""What many tests only read is made once, by whichever process of pytest needs it first."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest


def made_once(places: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make(folder)` has filled, for all processes of pytest."""
    folder = shared(places) / name
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".made").exists():
            make(folder)
            (folder / ".made").touch()
    return folder


def shared(places: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of pytest have; it is removed with theirs."""
    own = places.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def exporting_once(folder: Path) -> Iterator[None]:
    """Let torch's exporter, which takes 3 s, see the same weights once.

    What Hansang makes of its graph is made each time: properties, parity, other precisions.
    """
    import onnx
    import torch

    from training.model.resnet import Served

    export = torch.onnx.export

    class Program:
        def __init__(self, path: Path) -> None:
            self.model_proto = onnx.load(path)

    def kept(served: Served, images: tuple[torch.Tensor], **options: object) -> object:
        settings = (served.flip_average, served.temperature, images[0].shape)
        digest = hashlib.sha256(repr(settings).encode())
        for name, tensor in sorted(served.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        path = folder / f"{digest.hexdigest()}.onnx"
        if not path.exists():
            program = export(served, images, **options)
            new = path.with_suffix(f".{os.getpid()}")
            onnx.save(program.model_proto, new)
            new.rename(path)
        return Program(path)

    with patch("torch.onnx.export", kept):
        yield
