"""The answers that a model file gave where it was released: another machine must give them, too.

int8 products of weights of 8 bits overflow on CPUs without VNNI instructions, and kernels of other
providers round otherwise. So a version brings its answers to 16 pictures that every machine can
make, and a server compares them when it has warmed the model up.

Shapes: N pictures, S side, K classes.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelContractError, OtherAnswersError

FILE = "answers.json"
TOLERANCES = {"fp32": 0.001, "fp16": 0.01, "int8": 0.01}
"""How much of the probability may lie elsewhere than in the stored answers, on the average, by
precision; of onnxruntime's own kernels on a CPU. In int8 a sound CPU may have 0.004 where overflows
have 0.015 (docs/notes/experiments.md)."""
OTHER_ENGINE = 0.03
"""The same of other providers, which round otherwise, and of bf16."""

_PICTURES = 16
_COMPARED = 8
"""Of them, where a version has no stored answers."""
_RULE = "patches-1"
_MAX_BYTES = 8 * 2**20
"""Enough for 16 answers over 30,000 classes."""

Predict: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def pictures(size: int) -> NDArray[np.uint8]:
    """Return the pictures, (N, S, S, 3): patches of colours, coarse and fine, dark and light.

    They come from SHAKE-256 by whole numbers alone, so they are the same on every machine.
    """
    made = np.empty((_PICTURES, size, size, 3), np.uint8)
    for number in range(_PICTURES):
        side = 2 << number % 4
        digest = hashlib.shake_256(f"{_RULE} {number}".encode()).digest(side * side * 3)
        patches = np.frombuffer(digest, np.uint8).reshape(side, side, 3)
        at = np.arange(size) * side // size
        made[number] = patches[at][:, at]
    return made


def text(predict: Predict, size: int) -> str:
    """Return the content of `answers.json`: what a model answers to the pictures."""
    rows_NK = predict(pictures(size)).round(6).astype(float)
    return json.dumps({"pictures": _RULE, "probabilities": rows_NK.tolist()})


def require(path: Path, predict: Predict, size: int, num_classes: int, tolerance: float) -> None:
    """Compare answers with stored ones; a version that has none passes.

    Args:
        path: Where `answers.json` lies, if the version has one.
        predict: The model, warmed up.
        size: S, in pixels.
        num_classes: K.
        tolerance: How much of the probability may lie elsewhere, on the average.

    Raises:
        OtherAnswersError: More of it lies elsewhere.
        ModelContractError: The file cannot be read.
    """
    if path.is_file():
        expected_NK = _read(path, num_classes)
        if apart := _apart(predict(pictures(size)), expected_NK, tolerance):
            raise OtherAnswersError(
                f"{path.parent}: this machine answers otherwise than the one that released it:"
                f" {apart}; release it in another --precision, or on a machine like this one"
            )


def require_of_openvino(
    path: Path, predict: Predict, size: int, num_classes: int, precision: str, own: Predict
) -> None:
    """Compare OpenVINO's answers with stored ones; without these, with onnxruntime's on this CPU.

    Args:
        path: As in `require`.
        predict: The model in OpenVINO.
        size: S, in pixels.
        num_classes: K.
        precision: What it multiplies in.
        own: The model in onnxruntime.

    Raises:
        OtherAnswersError: More lies elsewhere than the precision may round.
        ModelContractError: The file cannot be read.
    """
    images_NHWC, source = pictures(size), "stored answers"
    if path.is_file():
        expected_NK = _read(path, num_classes)
    else:
        images_NHWC, source = images_NHWC[:_COMPARED], "onnxruntime"
        expected_NK = own(images_NHWC).astype(float)
    tolerance = TOLERANCES["fp32"] if precision == "fp32" else OTHER_ENGINE
    if apart := _apart(predict(images_NHWC), expected_NK, tolerance):
        raise OtherAnswersError(
            f"{path.parent}: OpenVINO in {precision} answers otherwise than {source}: {apart};"
            " use --cpu-engine onnxruntime"
        )


def _apart(found_NK: NDArray[np.float32], expected_NK: NDArray[np.float64], most: float) -> str:
    """Say how far answers are apart; empty where that is no more than allowed."""
    # The total variation distance. A mean: overflows shift all answers, rounding a few.
    apart = float(np.abs(found_NK - expected_NK).sum(1).mean() / 2)
    # Written so that NaN is too far.
    if apart <= most:
        return ""
    others = int((found_NK.argmax(1) != expected_NK.argmax(1)).sum())
    return (
        f"{apart:.4f} of the probability lies elsewhere, where {most} is allowed, and {others} of"
        f" {len(found_NK)} pictures are of another class"
    )


def _read(path: Path, num_classes: int) -> NDArray[np.float64]:
    """Return the stored answers, (N, K)."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        stored = json.loads(path.read_text("utf-8"))
        if stored["pictures"] != _RULE:
            raise ValueError(f"pictures of the rule {stored['pictures']!r}")
        rows_NK = np.array(stored["probabilities"], np.float64)
        if rows_NK.shape != (_PICTURES, num_classes):
            raise ValueError(f"shape {rows_NK.shape}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelContractError(
            f"{path} is not what this server can compare with: {error}"
        ) from error
    return rows_NK
