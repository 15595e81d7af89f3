"""What a GPU must serve the same as a CPU, and what twice: steps of benchmarks/gpu.py."""

from pathlib import Path

import numpy as np

from benchmarks.gpu_stages.made import Made
from benchmarks.gpu_stages.models import (
    Served,
    classify,
    decode_on_device,
    infer,
)
from benchmarks.gpu_stages.steps import Found, Step
from benchmarks.gpu_stages.steps import rows as told_rows
from service.models.model import Model
from service.pixels.preprocessing import preprocess
from service.sessions.cuda import CudaOptions
from service.sessions.opening import CPU, CUDA
from training.export.onnx_export import export_onnx
from training.export.quantisation import to_fp16

_CLEAR = 0.05
"""By so much the likeliest class must be ahead of the second for an answer to count as clear."""
_CLEAR_RESIZED = 0.25
"""The same where pixels were resized in another way, too: that alone moved probabilities by up to
0.12 on drawn photos, and so the top-1 of 4 %, one of which was 0.05 ahead."""


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the steps by name."""
    check = Serving(Made(device, work))
    return {
        "onnx": check.onnx,
        "graphs": check.graphs,
        "released": check.released,
        "jpeg": check.jpeg,
        "server": check.server,
    }


class Serving:
    """The steps; whichever is first to need the model has it trained and released."""

    def __init__(self, made: Made) -> None:
        """Take what the checks share."""
        self.made = made
        self.device = made.device
        self.provider_wanted = CUDA if made.device == "cuda" else CPU

    def onnx(self) -> Found:
        """Compare what the device answers with the CPU, in fp32 and fp16."""
        half = self.made.work / "fp16.onnx"
        to_fp16(self.made.fp32, half)
        images = self.made.val_images
        expected = _in_parts(Model(self.made.fp32, device="cpu"), images)
        rows = told_rows()
        for name, file, most in (("fp32", self.made.fp32, 1e-4), ("fp16", half, 3e-2)):
            model = Model(file, device=self.device)
            model.warm_up(32)
            answered = model.predict(images)
            assert model.provider == self.provider_wanted, model.provider
            rows.append({"file": name, "provider": model.provider, **_compare(expected, answered)})
            assert rows[-1]["most_apart"] < most, rows
            assert rows[-1]["clear_top1_changed"] == 0, rows
        return {"rows": rows}

    def released(self) -> Found:
        """Release with `--precision auto`: its gate runs on the device, and names the fastest."""
        self.made.trained("fp32")
        path = self.made.work / "auto.onnx"
        found = export_onnx(self.made.run("fp32"), path, precision="auto")
        model = Model(path, device=self.device)
        model.warm_up(16)
        return {"cost": found.cost.properties()["precision_cost"], "provider": model.provider}

    def graphs(self) -> Found:
        """Compare CUDA graphs, layouts, TF32 and cuDNN's search with the plain session."""
        path = self.made.fp32
        images = self.made.val_images[:100]
        expected = _in_parts(Model(path, device="cpu"), images)
        rows = told_rows()
        for name, options, most in (
            ("plain", CudaOptions(graphs=False), 1e-4),
            ("graphs", CudaOptions(), 1e-4),
            ("graphs, searched", CudaOptions(search="EXHAUSTIVE"), 1e-4),
            ("graphs, NHWC", CudaOptions(nhwc=True), 1e-4),
            ("graphs, TF32", CudaOptions(tf32=True), 2e-2),
        ):
            model = Model(path, device=self.device, cuda=options)
            # A session that cannot be captured is opened without, with no more than a warning.
            assert model._cuda.graphs == options.graphs, f"{name}: opened without graphs"
            model.warm_up(16)
            answers = [model.predict(images[:count]) for count in (1, 5, 16, 100, 5)]
            for answer in answers:
                # The very batch again, and each photo alone, must not depend on what ran between.
                found = _compare(expected[: len(answer)], answer)
                assert found["most_apart"] < most, (name, found)
            # Two lanes that each timed their algorithms may have chosen different ones.
            if options.search != "EXHAUSTIVE":
                same = np.array_equal(answers[1], answers[4])
                assert same, f"{name}: the same batch, other answers"
            rows.append({"options": name, **_compare(expected, answers[3])})
        return {"rows": rows}

    def jpeg(self) -> Found:
        """Decode the validation photos on a CPU and on the device: every photo's top-1 is the same.

        Also against the service's own pixels, whose decoder does a part of the resizing: there no
        clear answer may change.
        """
        size, data = self.made.scale.size, self.made.val_jpegs
        model = Model(self.made.fp32, device=self.device)
        model.warm_up(32)
        device = decode_on_device(data, size, self.device)
        answered = model.predict(device)
        rows = told_rows()
        for name, pixels, clear in (
            ("decoder alone", decode_on_device(data, size, "cpu"), 0.0),
            ("service", np.stack([preprocess(photo, size) for photo in data]), _CLEAR_RESIZED),
        ):
            apart = float(np.abs(pixels.astype(int) - device).mean())
            rows.append({"against": name, "mean_levels_apart": round(apart, 3),
                         "clear": clear,
                         **_compare(model.predict(pixels), answered, clear)})  # fmt: skip
        assert rows[0]["top1_changed"] == 0, rows
        assert rows[1]["clear_top1_changed"] == 0 and rows[1]["share_changed"] <= 0.1, rows
        return {"rows": rows}

    def server(self) -> Found:
        """Serve over gRPC in a process of its own: photos and raw pixels get the model's rows."""
        with Served(self.made.fp32, self.made.work / "models", self.device) as server:
            images = self.made.val_images[:8]
            expected = Model(self.made.fp32, device="cpu").predict(images)
            found = _compare(expected, infer(server.port, images))
            assert found["most_apart"] < 1e-4, found
            label = classify(server.port, self.made.val_jpegs[:1])[0]
            assert self.provider_wanted in server.said, server.said
        return {"said": server.said, "label": label, **found}


def _in_parts(model: Model, images: np.ndarray) -> np.ndarray:
    return np.concatenate([model.predict(images[at : at + 32]) for at in range(0, len(images), 32)])


def _compare(expected: np.ndarray, answered: np.ndarray, clear: float = _CLEAR) -> Found:
    """Return how far two sets of rows are apart, and how many clear answers changed."""
    first_two = np.sort(expected, axis=1)[:, -2:]
    apart = np.abs(expected - answered).max(1)
    changed = expected.argmax(1) != answered.argmax(1)
    is_clear = first_two[:, 1] - first_two[:, 0] > clear
    return {
        "most_apart": float(apart.max()),
        "top1_changed": int(changed.sum()),
        "share_changed": round(float(changed.mean()), 4),
        "clear_top1_changed": int((changed & is_clear).sum()),
        "of": len(expected),
    }
