"""Photos → dataset cache → run directory → ONNX file. From service only the pixels are imported.

What a notebook needs can be imported from here, as docs/reference/python-api.md shows:

    from training import draw_photos, export_onnx, prepare, recipe, train, write_report

Each name is loaded when it is asked for, since torch takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.prepare import prepare
    from training.export.onnx_export import export_onnx
    from training.loop.trainer import train
    from training.recipes import recipe
    from training.reports.report import write_report
    from training.samples.sample import draw_photos

__all__ = [
    "TrainConfig",
    "draw_photos",
    "export_onnx",
    "prepare",
    "recipe",
    "train",
    "write_report",
]

_MODULES = {
    "TrainConfig": "training.config",
    "draw_photos": "training.samples.sample",
    "export_onnx": "training.export.onnx_export",
    "prepare": "training.data.prepare",
    "recipe": "training.recipes",
    "train": "training.loop.trainer",
    "write_report": "training.reports.report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
