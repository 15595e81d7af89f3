"""What stands in for the world outside of the server: pixels, models, the repository, metrics.

An image is its number and what is to become of it. Decoding makes one pixel of the number, and the
model answers with number and version, so each row tells which image it is of, and who computed it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.errors import ImageError, ModelContractError, NotFoundError
from service.models.metadata import ModelMetadata
from service.sessions.opening import CPU, CUDA
from tests.service.simulation.machine import Machine

VERSIONS = 64
"""More than a world has."""


class Photo(bytes):
    """An encoded photo, which says that it is `size` bytes long."""

    size = 10_000
    number = 0
    small = True
    """Whether the threads of the model may decode it."""
    memory = 0
    """Bytes that decoding it holds; 0: too few to be counted."""
    seconds = 0.0
    fault = ""
    """bad: it is no photo. raises: the decoder has a fault."""

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True


def small(photo: Photo) -> Photo | None:
    """Stands in for `jpeg_header.small`."""
    return photo if photo.small else None


def pixels(number: int) -> Any:
    """Return the picture of one pixel that a photo with this number shows."""
    return np.array([[[number >> 16, number >> 8 & 255, number & 255]]], np.uint8)


def preprocess(photo: Photo, image_size: int, *, budget: Any, waits: bool = True, **_: Any) -> Any:
    """Stands in for `preprocessing.preprocess`: it holds memory and takes time."""
    machine = Machine.current
    if photo.fault == "bad":
        machine.sleep(photo.seconds / 10)
        raise ImageError("this is no photo")
    if photo.fault == "raises":
        raise RuntimeError("the decoder has a fault")
    if not photo.memory:
        machine.sleep(photo.seconds)
        return pixels(photo.number)
    with budget.hold(photo.memory, lambda most: f"more than {most}", waits=waits):
        held = machine.held
        held.append(photo.memory)
        assert sum(held) <= machine.most_held, f"{sum(held)} bytes are held for decoding"
        machine.sleep(photo.seconds)
        held.remove(photo.memory)
        return pixels(photo.number)


class Model:
    """Stands in for `model.Model`: one version, which may be made to raise or to be slow."""

    def __init__(self, version: int, *, on_cuda: bool, run_s: float, image_s: float) -> None:
        self.version = version
        self.provider = CUDA if on_cuda else CPU
        self.runs = 2 if on_cuda else 0
        self.metadata = ModelMetadata(labels=("only",), image_size=1, resize="none")
        self.properties: dict[str, str] = {}
        self.run_s, self.image_s = run_s, image_s
        self.slowness = 1.0
        self.raises = False

    def predict(self, images_NHWC: Any) -> Any:
        machine = Machine.current
        scatter = 0.5 + machine.random.random()
        machine.sleep((self.run_s + self.image_s * len(images_NHWC)) * scatter * self.slowness)
        if self.raises:
            machine.raised_s = machine.now
            raise RuntimeError("the device has a fault")
        found = images_NHWC.reshape(-1, 3) @ (2**16, 2**8, 1)
        return (found * VERSIONS + self.version).astype(np.float32)[:, None]

    def probe(self) -> None:
        self.predict(np.zeros((1, 1, 1, 3), np.uint8))


@dataclass
class Repository:
    """Stands in for `ModelRepository`: what publishers say, and which versions are sound."""

    there: dict[str, int] = field(default_factory=dict)
    """Model → the version that is to serve."""
    unsound: set[tuple[str, int]] = field(default_factory=set)
    changes: int = 0

    def models(self) -> list[str]:
        return sorted(self.there)

    def state(self, model: str) -> object:
        return self.there.get(model), self.changes

    def serving(self, model: str) -> int:
        if model not in self.there:
            raise NotFoundError(f"no model {model!r}")
        return self.there[model]

    def fallbacks(self, model: str) -> list[int]:
        return list(range(self.there[model], 0, -1))

    def open(self, name: str, version: int, **how: Any) -> tuple[Model, float]:
        """Stand in for `loading._open`."""
        Machine.current.sleep(0.05)
        if (name, version) in self.unsound:
            raise ModelContractError("the file is damaged")
        model = Model(version, **how)
        return model, model.image_s


class _Child:
    """One metric with its labels."""

    __slots__ = ("history", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self.history: list[tuple[float, float]] = []
        """Values that were set, and when."""

    def inc(self, count: float = 1) -> None:
        self.value += count

    def dec(self, count: float = 1) -> None:
        self.value -= count

    def set(self, value: float) -> None:
        self.value = value
        self.history.append((value, Machine.current.now))

    def observe(self, value: float) -> None:
        self.value += 1

    def time(self) -> "_Child":
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.value += 1

    def labels(self, *_: object) -> "_Child":
        return self


class _Metric(_Child):
    """A metric that costs a fifth of what Prometheus' own does."""

    __slots__ = ("children",)

    def __init__(self) -> None:
        super().__init__()
        self.children: dict[tuple[object, ...], _Child] = {}

    def labels(self, *values: object) -> _Child:
        child = self.children.get(values)
        if child is None:
            child = self.children[values] = _Child()
        return child

    def remove(self, *values: object) -> None:
        self.children.pop(values, None)


class Metrics:
    """Stands in for `metrics.Metrics`: each metric is made when it is first asked for."""

    def __init__(self, **_: object) -> None:
        """Begin to count."""

    def __getattr__(self, name: str) -> _Metric:
        metric = _Metric()
        setattr(self, name, metric)
        return metric
