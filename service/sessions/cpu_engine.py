"""Which engine computes a model on a CPU, and in which precision.

file in │ onnxruntime          │ OpenVINO, if its plugin is there
fp32    │ unless bf16 is taken │ in bf16: its release allows it, and the CPU multiplies it
int8    │ if it is faster here │ if it is faster here
fp16    │ always               │

What OpenVINO answers is first compared with the version's stored answers; where it has none, with
what onnxruntime answers.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import ModelContractError
from service.sessions import answers, openvino

_ROUNDS, _TIMED = 5, 8
"""Of timing two engines: turns, and images in a run. Loading waits for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuOptions:
    """How a CPU computes a model. The defaults are what releases are measured by."""

    engine: str = "onnxruntime"
    """As `ServerConfig.cpu_engine`."""

    precision: str = "auto"
    """As `ServerConfig.cpu_precision`."""

    runs: int = 1
    """Runs at a time."""

    threads: int = 1
    """Threads within a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What computes a model."""

    session: ort.InferenceSession
    precision: str
    """What it multiplies in: `fp32`, `bf16`, `int8` or `fp16`."""


def choose(
    path: Path,
    session: ort.InferenceSession,
    options: CpuOptions,
    images_NHWC: NDArray[np.uint8],
    labels: int,
) -> Engine:
    """Return what computes a model on this CPU, and say why in the log.

    Args:
        path: The ONNX file.
        session: onnxruntime's own, which is compared with.
        options: What was asked for.
        images_NHWC: Images to compare and to time it with.
        labels: How many classes there are.

    Raises:
        ModelContractError: `openvino` was asked for, and cannot be had.
        OtherAnswersError: The same, and it answers otherwise.
    """
    properties = session.get_modelmeta().custom_metadata_map
    file = properties.get("precision", "fp32")
    own = Engine(session=session, precision=file)
    asked = options.engine == "openvino"
    if options.engine == "onnxruntime" or not (asked or openvino.installed()):
        return own
    precision, why = _precision(file, properties.get("bf16", "not measured"), options.precision)
    if not asked and precision in ("fp32", "fp16"):
        logger.info("%s: onnxruntime computes it in %s: %s", path, precision, why)
        return own
    try:
        other = openvino.open_openvino(path, precision, options.runs, options.threads)
        _compare(path, precision, session, other, labels, images_NHWC.shape[1])
    except ModelContractError as error:
        if asked:
            raise
        logger.warning("onnxruntime computes it in %s: %s", file, error)
        return own
    if not asked and precision == "int8":
        speedup = _speedup(session, other, images_NHWC)
        why = f"it takes {speedup:.2f} times as many photos a second"
        if speedup < 1:
            logger.info("%s: onnxruntime computes it in int8: of OpenVINO %s", path, why)
            return own
    logger.info("%s: OpenVINO computes it in %s: %s", path, precision, why)
    return Engine(session=other, precision=precision)


def _precision(file: str, bf16: str, wanted: str) -> tuple[str, str]:
    """Return what OpenVINO multiplies in, and why."""
    if file != "fp32":
        return file, "the file is in it"
    unit = openvino.bf16_unit()
    if wanted == "fp32":
        return "fp32", "it was asked for"
    if not unit:
        return "fp32", "this CPU does not multiply bf16"
    if bf16 != "allowed":
        return "fp32", f"bf16 at its release: {bf16}"
    return "bf16", f"its release allows it, and this CPU has {unit}"


def _run(session: ort.InferenceSession, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows_NK: NDArray[np.float32] = session.run(["probabilities"], {"images": images_NHWC})[0]
    return rows_NK


def _compare(path: Path, precision: str, one: Any, other: Any, labels: int, size: int) -> None:
    """Compare the answers of OpenVINO with those that the file gave elsewhere.

    Raises:
        ModelContractError: A probability is too far apart, or a run fails.
    """
    try:
        answers.require_of_openvino(
            path.with_name(answers.FILE), partial(_run, other), size, labels, precision,
            partial(_run, one),
        )  # fmt: skip
    except ModelContractError:
        raise
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelContractError(f"{path}: a run by OpenVINO fails: {error}") from error


def _speedup(one: Any, other: Any, images: NDArray[np.uint8]) -> float:
    """Return the photos a second of `other` over those of `one`."""
    images, best = images[:_TIMED], [float("inf")] * 2
    # In turn, and the best of each: other load on the machine hits both alike.
    for _ in range(_ROUNDS):
        for at, session in enumerate((one, other)):
            start_s = perf_counter()
            _run(session, images)
            best[at] = min(best[at], perf_counter() - start_s)
    return best[0] / best[1]
