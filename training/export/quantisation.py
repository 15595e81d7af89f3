"""An fp32 ONNX file in fewer bits: fp16, or int8 with ranges from training photos.

Shapes: N photos, S side of the square.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import centre_crop
from training.data.cache import Split

_CALIBRATION_PHOTOS = 256
_HISTOGRAM_PIXELS = 256 * 64 * 64
"""Histograms hold every activation of all photos in memory, so of larger photos fewer are taken."""
_OPERATORS = ("Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm", "MatMul")
_LAYERS = ("Conv", "Gemm", "MatMul")
_INT8_VARIANTS = (
    ("minmax", 7, False), ("percentile", 7, False), ("entropy", 7, False),
    ("minmax", 8, False), ("minmax", 8, True),
)  # fmt: skip
"""Calibration, bits of the weights, and whether the first and the last layer, the most sensitive,
stay in float. Products of weights of 7 bits overflow on no CPU, so they are the same on all."""


def variants(
    source: Path, precision: str, train: Split, size: int, folder: Path
) -> Iterator[tuple[str, Path]]:
    """Yield (how it was made, file) for each way to reduce an fp32 file; the cheapest comes first.

    A file is made when it is asked for, in `folder`.
    """
    if precision == "fp16":
        target = folder / "fp16.onnx"
        to_fp16(source, target)
        yield "weights and activations in half precision", target
        return
    for calibration, bits, ends_in_float in _INT8_VARIANTS:
        target = folder / f"{calibration}-{bits}-{ends_in_float}.onnx"
        most = _CALIBRATION_PHOTOS
        if calibration != "minmax":
            most = max(min(most, _HISTOGRAM_PIXELS // size**2), 1)
        # Evenly over the split, which is sorted by class: every class is in it.
        rows = np.unique(np.linspace(0, len(train.targets) - 1, most).astype(int))
        images = np.stack([centre_crop(train.images[row], size) for row in rows])
        to_int8(
            source, target, images,
            calibration=calibration, weight_bits=bits, ends_in_float=ends_in_float,
        )  # fmt: skip
        how = f"static, per channel, weights of {bits} bits, {calibration} over {len(rows)}"
        ends = ", first and last layer in float" if ends_in_float else ""
        yield f"{how} training photos{ends}", target


def to_fp16(source: Path, target: Path) -> None:
    """Write an fp16 file of an fp32 one; input and output stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, target)


def to_int8(
    source: Path, target: Path, images_NHWC: NDArray[np.uint8], *,
    calibration: str = "minmax", weight_bits: int = 7, ends_in_float: bool = False,
) -> None:  # fmt: skip
    """Write an int8 file of an fp32 one: static, per channel, weights and activations.

    Args:
        source: The fp32 file.
        target: Where the other goes.
        images_NHWC: What the activations' ranges are taken from, (N, S, S, 3).
        calibration: `minmax`, `percentile` or `entropy`.
        weight_bits: 7, or 8: then two products overflow 16 bits on CPUs without VNNI.
        ends_in_float: Whether the first and the last layer stay as they are.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    method = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "percentile": quantization.CalibrationMethod.Percentile,
        "entropy": quantization.CalibrationMethod.Entropy,
    }[calibration]

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            # onnxruntime's histograms want batches of one size, so the rest is left out.
            full = len(images_NHWC) // 16 * 16 or len(images_NHWC)
            self._left = iter(np.split(images_NHWC[:full], max(full // 16, 1)))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            images = next(self._left, None)
            return None if images is None else {"images": images}

    prepared = target.with_name("prepared.onnx")
    with _quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        nodes = list(onnx.load(prepared).graph.node)
        layers = [at for at, node in enumerate(nodes) if node.op_type in _LAYERS]
        # Only what lies between the layers is in int8; pixels and probabilities are not.
        outside = [*nodes[: layers[0]], *nodes[layers[-1] + 1 :]]
        if ends_in_float:
            outside += [nodes[layers[0]], nodes[layers[-1]]]
        quantization.quantize_static(
            prepared,
            target,
            Photos(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_exclude=[node.name for node in outside],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=weight_bits == 7,
            calibrate_method=method,
            extra_options={"CalibPercentile": 99.99} if calibration == "percentile" else {},
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what onnxruntime's tools print and log from stdout, which is for results."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
