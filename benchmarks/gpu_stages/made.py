"""What the checks of a GPU share: drawn photos, short runs on them, and a released model."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from service.pixels.preprocessing import centre_crop
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.prepare import prepare
from training.export.onnx_export import export_onnx
from training.loop.trainer import train
from training.runs.result import TrainResult
from training.samples.sample import draw_photos


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    size: int
    classes: int
    per_class: int
    epochs: int
    batch: int


SCALES = {"cuda": Scale(64, 13, 120, 8, 64), "cpu": Scale(32, 3, 20, 2, 16)}


class Made:
    """Makes what is asked for, once, whichever stage asks first."""

    def __init__(self, device: str, work: Path) -> None:
        """Work in a folder that is thrown away."""
        self.device = device
        self.scale = SCALES[device]
        self.work = work

    @cached_property
    def photos(self) -> Path:
        """Return the folder of the drawn photos."""
        scale = self.scale
        return draw_photos(self.work / "photos", classes=scale.classes, per_class=scale.per_class)

    @cached_property
    def cache(self) -> DatasetCache:
        """Return the cache of the photos."""
        return prepare(self.photos, self.scale.size, cache_root=self.work / "cache")

    def config(self, **changes: Any) -> TrainConfig:
        """Return the config of a short run."""
        scale = self.scale
        config = TrainConfig(
            image_size=scale.size, epochs=scale.epochs, batch_size=scale.batch, compile="off"
        )
        return config.with_overrides(changes)

    def run(self, precision: str) -> Path:
        """Return the folder of a run in fp32 or bf16."""
        return self.work / "runs" / precision

    def trained(self, precision: str) -> TrainResult:
        """Train in fp32, or in bf16 and on CUDA compiled; go on with what is there.

        A run that a stage was cut off in is ended by the next stage that needs it.
        """
        compiling = "on" if precision == "bf16" and str(self.device) == "cuda" else "off"
        config = self.config(precision=precision, compile=compiling)
        return train(config, self.cache, self.run(precision), device=self.device)

    @cached_property
    def fp32(self) -> Path:
        """Return the model file that the fp32 run is released as."""
        self.trained("fp32")
        path = self.work / "fp32.onnx"
        export_onnx(self.run("fp32"), path)
        return path

    @cached_property
    def val_jpegs(self) -> list[bytes]:
        """Return the photos to validate on, as files hold them."""
        return [path.read_bytes() for path in sorted((self.photos / "val").glob("*/*.jpg"))]

    @cached_property
    def val_images(self) -> np.ndarray:
        """Return the same as a model sees them, uint8 (N, S, S, 3)."""
        images = self.cache.splits["val"].images
        return np.ascontiguousarray(centre_crop(images, self.scale.size))
