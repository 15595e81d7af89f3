"""The precision gate: the exported model in fewer bits, if it is still the same model.

fp32 file ─► int8 or fp16 (quantisation) ─► every validation photo, and speed ─► same model?
          └► bf16 (OpenVINO's kernels): the file stays, and says whether it may be used

ResNet18 at 64 px, trained on 42 classes, was the same within 0.5 points by min-max, percentile and
entropy calibration alike, with no layer left in float (docs/notes/benchmarks.md). The cheapest is
tried first, and slower ones only where it does not pass.

Shapes: N photos, S side of the square, K classes.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import centre_crop
from terminal import UserError
from training.data.cache import Split
from training.errors import ExportError
from training.export.quantisation import variants

PRECISIONS = ("fp32", "fp16", "int8", "auto")
MAX_TOP1_LOSS = 0.005
"""Of the validation photos, as a fraction, against fp32."""
MIN_AGREEMENT = 0.98
"""Of the validation photos, those that get the class that fp32 gives them: it must be above."""

_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a precision costs and gains, measured on the validation photos and on this device."""

    precision: str
    val_top1: float
    fp32_val_top1: float
    agreement: float
    """Photos whose top-1 is that of fp32, as a fraction."""
    speedup: float
    """Photos per second in batches of 32 over those of fp32."""
    how: str
    """How it was made; of fp32 with `auto`, why the others did not pass."""

    bf16: "Bf16 | None" = None
    """What an fp32 file costs and gains where a CPU multiplies it in bf16; None for others."""

    @property
    def passes(self) -> bool:
        """Whether the model is still the same."""
        lost = self.fp32_val_top1 - self.val_top1
        return lost <= MAX_TOP1_LOSS and self.agreement > MIN_AGREEMENT

    def properties(self) -> dict[str, str]:
        """Return the metadata properties that the file gets."""
        values = asdict(self)
        del values["bf16"]
        found = {"precision": self.precision, "precision_cost": json.dumps(values)}
        return found | ({} if self.bf16 is None else self.bf16.properties())


@dataclass(frozen=True, kw_only=True, slots=True)
class Bf16:
    """Whether an fp32 file may be computed in bf16, as OpenVINO does on CPUs that multiply it."""

    verdict: str
    """`allowed`, `refused` or `not measured`."""
    cost: Cost | None = None
    why: str = ""
    """Why it was not measured."""

    def properties(self) -> dict[str, str]:
        """Return the metadata properties that the file gets."""
        if self.cost is None:
            return {"bf16": self.verdict, "bf16_cost": ""}
        values = asdict(self.cost)
        # Exported again, an fp32 file is the same to the byte; its speed would not be.
        del values["bf16"], values["speedup"]
        return {"bf16": self.verdict, "bf16_cost": json.dumps(values)}


def reduce(path: Path, precision: str, train: Split, val: Split, *, num_correct: int) -> Cost:
    """Replace an fp32 file by one of another precision, if that passes the gate.

    Args:
        path: The fp32 file, which passed its own gate; replaced in place.
        precision: One of `PRECISIONS`; `auto` is the fastest on this device that passes.
        train: What int8 is calibrated on.
        val: What the gate counts on.
        num_correct: How many photos of `val` the fp32 file gets right.

    Raises:
        ExportError: The precision asked for does not pass; `path` is as it was.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    top1 = num_correct / len(val.targets)
    best = Cost(
        precision="fp32", val_top1=top1, fp32_val_top1=top1, agreement=1.0, speedup=1.0, how="",
    )  # fmt: skip
    if precision == "fp32":
        best = replace(best, bf16=_bf16(path, val, top1))
        _note(path, path, best)
        return best
    reference = _Fp32Reference(path, val, top1)
    chosen: Path | None = None
    wanted = ("int8", "fp16") if precision == "auto" else (precision,)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-precision-") as folder:
        for each in wanted:
            try:
                made, cost = _passing(path, each, train, reference, Path(folder))
            except ExportError as error:
                if precision != "auto":
                    raise
                best = replace(best, how=f"{best.how} {str(error).split('; ')[0]}.".strip())
                continue
            if precision != "auto" or cost.speedup > best.speedup:
                chosen, best = made, cost
        if chosen is None:
            best = replace(best, bf16=_bf16(path, val, top1))
        _note(chosen or path, path, best)
    return best


def _passing(
    source: Path, precision: str, train: Split, reference: "_Fp32Reference", folder: Path
) -> tuple[Path, Cost]:
    """Return the first file of this precision that passes, and what it costs."""
    refusals = []
    for how, target in variants(source, precision, train, reference.size, folder):
        cost = reference.cost(_session(target), precision, how)
        if cost.passes:
            return target, cost
        refusals.append(
            f"{how}: top-1 {cost.val_top1:.2%} where fp32 has {cost.fp32_val_top1:.2%},"
            f" agreement {cost.agreement:.2%}"
        )
    raise ExportError(
        f"precision {precision} changes this model too much (at most {100 * MAX_TOP1_LOSS:g} points"
        f" may be lost, and agreement must be above {MIN_AGREEMENT:.0%}): {'; '.join(refusals)};"
        " nothing was published, release it with --precision fp32"
    )


class _Fp32Reference:
    """The fp32 file, which others are compared with: answers on validation photos, and speed."""

    def __init__(self, fp32: Path, val: Split, top1: float, *, on_cpu: bool = False) -> None:
        self._session = _session(fp32, on_cpu=on_cpu)
        self.size: int = self._session.get_inputs()[0].shape[1]
        self._val = val
        self._expected = self._top1(self._session)
        self._expected_top1 = top1

    def cost(self, session: Any, precision: str, how: str) -> Cost:
        """Return what another session costs and gains: it answers every photo, and is timed."""
        found = self._top1(session)
        correct, photos = int((found == self._val.targets).sum()), len(found)
        return Cost(
            precision=precision,
            val_top1=correct / photos,
            fp32_val_top1=self._expected_top1,
            agreement=float((found == self._expected).mean()),
            speedup=round(self._speedup(session), 2),
            how=how,
        )

    def _top1(self, session: Any) -> NDArray[np.int64]:
        photos = len(self._val.targets)
        rows = [slice(start, start + _BATCH) for start in range(0, photos, _BATCH)]
        answers = [
            session.run(["probabilities"], {"images": _pixels(self._val, r, self.size)})[0]
            for r in rows
        ]
        probabilities_NK = np.concatenate(answers)
        if not np.isfinite(probabilities_NK).all():
            return np.full(len(probabilities_NK), -1)
        found: NDArray[np.int64] = probabilities_NK.argmax(1)
        return found

    def _speedup(self, session: Any) -> float:
        images = np.zeros((_BATCH, self.size, self.size, 3), np.uint8)
        # Alternating, and the best of each, so that other load on the machine hits both alike.
        best = [float("inf")] * 2
        for _ in range(5):
            for at, each in enumerate((self._session, session)):
                start_s = perf_counter()
                each.run(["probabilities"], {"images": images})
                best[at] = min(best[at], perf_counter() - start_s)
        return best[0] / best[1]


def _pixels(split: Split, rows: slice, size: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(centre_crop(split.images[rows], size))


def _bf16(path: Path, val: Split, top1: float) -> Bf16:
    """Return what an fp32 file costs and gains in bf16, on the CPU at hand."""
    from service.sessions.openvino import bf16_unit, installed, open_openvino

    unit = bf16_unit()
    if not (unit and installed()):
        missing = "its plugin is not installed" if unit else "this CPU does not multiply bf16"
        return Bf16(verdict="not measured", why=missing)
    reference = _Fp32Reference(path, val, top1, on_cpu=True)
    try:
        session = open_openvino(path, "bf16", runs=1, threads=1)
        cost = reference.cost(session, "bf16", f"OpenVINO, {unit}")
    except (UserError, RuntimeError) as error:
        return Bf16(verdict="not measured", why=str(error))
    return Bf16(verdict="allowed" if cost.passes else "refused", cost=cost)


def _session(path: Path, *, on_cpu: bool = False) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as it is served
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if not on_cpu and Path("/dev/nvidiactl").exists() and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
        # As it is served: fp32 is not rounded to TF32, and nothing is timed for each new batch.
        options_cuda = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", options_cuda))
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ExportError(f"onnxruntime cannot open the model: {error}") from error


def _note(made: Path, path: Path, cost: Cost) -> None:
    """Write the properties into the file that was made, and replace `path`, the fp32 one, by it."""
    import onnx

    model = onnx.load(made)
    known = {each.key: each.value for each in onnx.load(path).metadata_props}
    known |= cost.properties()
    if cost.precision != "fp32":
        known["val_top1"] = repr(cost.val_top1)
        known["test_top1"] = ""  # that of the fp32 weights is not this file's
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, known)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
