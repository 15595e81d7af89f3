"""Correctness on CUDA, in under nine minutes: what a GPU must do the same as a CPU, and what twice.

    python benchmarks/gpu_check.py [--device cpu] [--out FOLDER]     also: make gpu-check

The stages stand at the end, in the order in which they run; docs/gpu.md says what each one proves.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

import training.engine as engines
from benchmarks import gpu_rig as rig
from benchmarks.gpu_models import (
    Served,
    classify,
    decode_on_device,
    halve,
    infer,
    random_model,
)
from service.cuda import CudaOptions
from service.model import CPU, CUDA, Model
from service.preprocessing import centre_crop, preprocess, resize_size
from training import checkpoint
from training.augment import augment, draw
from training.cache import DatasetCache
from training.config import AugmentConfig, TrainConfig
from training.drawn.sample import draw as draw_photos
from training.engine import Engine
from training.errors import RunError, StoppedError
from training.export import export
from training.prepare import prepare
from training.trainer import train

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    size: int
    classes: int
    per_class: int
    epochs: int
    batch: int


SCALES = {"cuda": Scale(64, 13, 120, 8, 64), "cpu": Scale(32, 3, 20, 2, 16)}


class Check:
    """The stages; what one makes (photos, a run, its model) the next ones use."""

    def __init__(self, device: str, work: Path) -> None:
        """Work in a folder that is thrown away."""
        self.device = device
        self.scale = SCALES[device]
        self.work = work
        self._cache: DatasetCache | None = None

    @property
    def cache(self) -> DatasetCache:
        """Return the cache of drawn photos; drawn when first asked for."""
        if self._cache is None:
            scale = self.scale
            photos = draw_photos(
                self.work / "photos", classes=scale.classes, per_class=scale.per_class
            )
            self._cache = prepare(photos, scale.size, cache_root=self.work / "cache")
        return self._cache

    def config(self, **changes: Any) -> TrainConfig:
        """Return the config of a short run."""
        scale = self.scale
        config = TrainConfig(
            image_size=scale.size, epochs=scale.epochs, batch_size=scale.batch, compile="off"
        )
        return config.with_overrides(changes)

    def provider(self) -> Found:
        """Require the provider that was asked for; onnxruntime falls back in silence."""
        path = random_model(self.work / "provider.onnx", image_size=self.scale.size)
        model = Model(path, device=self.device)
        wanted = CUDA if self.device == "cuda" else CPU
        assert model.provider == wanted, f"{model.provider} is in use, not {wanted}"
        return {"provider": model.provider}

    def step_parity(self) -> Found:
        """Take the same fp32 steps on the CPU and on the device."""
        scale, rows = self.scale, []
        config = self.config(**{"precision": "fp32", "optimizer.ema": 0.9})
        both = [Engine(config, 7, torch.device(name)) for name in ("cpu", self.device)]
        random = np.random.default_rng(0)
        side = resize_size(scale.size)
        for step in range(3):
            images = torch.from_numpy(
                random.integers(0, 256, (scale.batch, side, side, 3), dtype=np.uint8)
            )
            targets = torch.arange(scale.batch) % 7
            draws = draw(scale.batch, config.augment, seed=0, step=step)
            losses = []
            for engine in both:
                where = engine.device
                loss = engine.step(
                    images.to(where), targets.to(where), draws, size=scale.size, lr=0.01
                )
                engine.follow(step)
                losses.append(loss.item())
            apart = _apart(both[0].model, both[1].model)
            rows.append(
                {"step": step, "cpu": losses[0], "device": losses[1], "weights_apart": apart}
            )
        assert abs(rows[0]["cpu"] - rows[0]["device"]) < 1e-3 * rows[0]["cpu"], rows
        # A step moves weights by some 1e-3 of themselves; later ones amplify what rounding did.
        assert rows[0]["weights_apart"] < 1e-4, rows
        assert rows[-1]["weights_apart"] < 1e-2, rows
        return {"rows": rows}

    def augmentation(self) -> Found:
        """Draw the same pixels on the CPU and on the device, with every ingredient on."""
        config = AugmentConfig(rotation=15, trivial=0.5, erasing=0.3, mixup=0.4, cutmix=1.0)
        side = resize_size(self.scale.size)
        images = torch.from_numpy(
            np.random.default_rng(1).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
        )
        draws = draw(64, config, seed=0, step=0)
        size = self.scale.size
        ours, share = augment(images, size, size, config, draws)
        theirs, other = augment(images.to(self.device), size, size, config, draws)
        apart = (ours - theirs.cpu()).abs()
        assert torch.allclose(share, other.cpu(), atol=1e-5)
        # A level that falls on the other side of a threshold (solarize, equalize) may differ.
        assert apart.mean() < 0.2, apart.mean()
        return {"mean_levels_apart": apart.mean().item(), "most": apart.max().item()}

    def curves(self) -> Found:
        """Train in fp32 and in bf16: both learn, and alike."""
        rows = []
        for precision in ("fp32", "bf16"):
            # One of them compiled: `auto` compiles on CUDA, and minutes are few there.
            compiling = "auto" if precision == "bf16" else "off"
            config = self.config(precision=precision, compile=compiling)
            result = train(config, self.cache, self.work / "runs" / precision, device=self.device)
            history = _history(self.work / "runs" / precision)
            losses = [round(epoch["train_loss"], 4) for epoch in history]
            rows.append({"precision": precision, "val_top1": result.val_top1, "losses": losses})
            assert all(np.isfinite(losses)), losses
        first, last = rows[0]["losses"][0], rows[0]["losses"][-1]
        if self.device == "cuda":
            assert last < 0.8 * first, f"fp32 did not learn: {rows}"
            assert abs(rows[1]["losses"][-1] - last) < 0.25 * last, f"bf16 is another curve: {rows}"
        return {"rows": rows}

    def resume(self) -> Found:
        """Stop runs in mid-epoch and go on: the weights are those of one never stopped."""
        cases: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}}
        placements = ["memory-mapped"]
        if self.device == "cuda":
            placements = ["resident", "pinned"]
            cases["bf16, compiled"] = {"precision": "bf16", "compile": "on"}
            cases["everything"] = {
                "optimizer.name": "adamw", "optimizer.ema": 0.9, "augment.trivial": 0.5,
                "augment.cutmix": 1.0, "augment.erasing": 0.3, "optimizer.clip_norm": 1.0,
            }  # fmt: skip
        rows = []
        for name, changes in cases.items():
            for placement in placements[:1] if "compile" in changes else placements:
                config = self.config(epochs=2, checkpoint_every_steps=3, **changes)
                label = f"resume-{name}-{placement}".replace(", ", "-")
                ends = []
                for stops in (0, 2):
                    run = self.work / "runs" / f"{label}-{stops}"
                    self._run_with_stops(config, run, placement, stops)
                    ends.append(_newest(run))
                worst = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
                rows.append({"case": name, "placement": placement, "tensors": len(ends[0]),
                             "differ": len(worst)})  # fmt: skip
                assert not worst, f"{label}: {len(worst)} tensors differ, such as {worst[:3]}"
        return {"rows": rows}

    def _run_with_stops(self, config: TrainConfig, run: Path, placement: Any, stops: int) -> None:
        for stop in range(stops + 1):
            asked = iter(range(10**9))
            last = stop == stops

            def should_stop(asked: Any = asked, stop: int = stop, last: bool = last) -> bool:
                return not last and next(asked) >= 2 + 3 * stop

            try:
                train(config, self.cache, run, device=self.device, placement=placement,
                      should_stop=should_stop)  # fmt: skip
            except StoppedError:
                continue

    def compiled(self) -> Found:
        """Take the same steps eager, compiled and as CUDA graphs, whole and in micro-batches."""
        scale, rows = self.scale, []
        side = resize_size(scale.size)
        images = torch.from_numpy(
            np.random.default_rng(2).integers(0, 256, (scale.batch, side, side, 3), dtype=np.uint8)
        ).to(self.device)
        targets = (torch.arange(scale.batch) % 7).to(self.device)
        for micro, fast in ((0, "on"), (scale.batch // 2, "graphs")):
            reference = None
            for mode in ("off", fast):
                config = self.config(
                    **{"compile": mode, "precision": "fp32", "micro_batch_size": micro}
                )
                engine = Engine(config, 7, torch.device(self.device))
                for step in range(4):
                    draws = draw(scale.batch, config.augment, seed=0, step=step)
                    loss = engine.step(
                        # Another rate each step: a graph must not keep the first one.
                        images, targets, draws, size=scale.size, lr=0.02 / (1 + step)
                    )  # fmt: skip
                reference = reference or engine
                row = {"compile": mode, "micro": micro, "loss": round(loss.item(), 5),
                       "weights_apart": _apart(reference.model, engine.model)}  # fmt: skip
                rows.append(row)
                assert row["weights_apart"] < 5e-3, rows
        return {"rows": rows}

    def out_of_memory(self) -> Found:
        """Ask for more than there is: the message names a size, and the search finds one."""
        from training.room import find_micro_batch
        from training.world import ALONE

        if self.device != "cuda":
            return self._out_of_memory_rehearsed()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(2 * 2**30 / total, 1.0))
        try:
            config = self.config(batch_size=2**14, image_size=self.scale.size)
            found = find_micro_batch(config, self.cache, "cuda", ALONE)
            assert 0 < found.micro_batch_size < 2**14, found.micro_batch_size
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return {"batch": 2**14, "with_2_gib": found.micro_batch_size}

    def _out_of_memory_rehearsed(self) -> Found:
        from training.room import find_micro_batch
        from training.world import ALONE

        whole = Engine._loss

        def small(self: Engine, images: Any, *rest: Any) -> Any:
            if len(images) > 4:
                raise torch.OutOfMemoryError("rehearsed")
            return whole(self, images, *rest)

        engines.Engine._loss = small  # type: ignore[method-assign]
        try:
            found = find_micro_batch(self.config(), self.cache, "cpu", ALONE)
        except RunError as error:
            raise AssertionError(f"the search ended: {error}") from error
        finally:
            engines.Engine._loss = whole  # type: ignore[method-assign]
        assert found.micro_batch_size == 4, found.micro_batch_size
        return {"rehearsed_with_room_for": 4}

    def onnx(self) -> Found:
        """Release the run, and compare what the device answers with the CPU, in fp32 and fp16."""
        path, half = self.work / "fp32.onnx", self.work / "fp16.onnx"
        run = self.work / "runs" / "fp32"
        if not run.exists():
            train(self.config(precision="fp32"), self.cache, run, device=self.device)
        export(run, path)
        halve(path, half)
        images = self._val_images()
        expected = _in_parts(Model(path, device="cpu"), images)
        rows = []
        for name, file, most in (("fp32", path, 1e-4), ("fp16", half, 3e-2)):
            model = Model(file, device=self.device)
            model.warm_up(32)
            answered = model.predict(images)
            assert model.provider == (CUDA if self.device == "cuda" else CPU), model.provider
            rows.append({"file": name, "provider": model.provider, **_compare(expected, answered)})
            assert rows[-1]["most_apart"] < most, rows
            assert rows[-1]["clear_top1_changed"] == 0, rows
        return {"rows": rows}

    def released(self) -> Found:
        """Release with `--precision auto`: its gate runs on the device, and names the fastest."""
        found = export(self.work / "runs" / "fp32", self.work / "auto.onnx", precision="auto")
        model = Model(self.work / "auto.onnx", device=self.device)
        model.warm_up(16)
        return {"cost": found.cost.properties()["precision_cost"], "provider": model.provider}

    def graphs(self) -> Found:
        """Compare CUDA graphs, layouts, TF32 and cuDNN's search with the plain session."""
        path = self.work / "fp32.onnx"
        images = self._val_images()[:100]
        expected = _in_parts(Model(path, device="cpu"), images)
        rows = []
        for name, options, most in (
            ("plain", CudaOptions(graphs=False), 1e-4),
            ("graphs", CudaOptions(), 1e-4),
            ("graphs, searched", CudaOptions(search="EXHAUSTIVE"), 1e-4),
            ("graphs, NHWC", CudaOptions(nhwc=True), 1e-4),
            ("graphs, TF32", CudaOptions(tf32=True), 2e-2),
        ):
            model = Model(path, device=self.device, cuda=options)
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
        """Decode the validation photos on the device and on the CPU; compare the top-1.

        With the same resizing, so that the decoder is all that differs. How far the pixels are from
        those that the server makes, which resizes in another way, is noted beside it.
        """
        size = self.scale.size
        files = sorted((self.work / "photos" / "val").glob("*/*.jpg"))
        data = [path.read_bytes() for path in files]
        cpu = decode_on_device(data, size, "cpu")
        device = decode_on_device(data, size, self.device)
        served = np.stack([preprocess(photo, size) for photo in data])
        model = Model(self.work / "fp32.onnx", device=self.device)
        model.warm_up(32)
        expected, answered = model.predict(cpu), model.predict(device)
        found = {
            "mean_levels_apart": round(float(np.abs(cpu.astype(int) - device).mean()), 3),
            **_compare(expected, answered),
            "served": _compare(model.predict(served), answered),
        }
        assert found["clear_top1_changed"] == 0, found
        return found

    def server(self) -> Found:
        """Serve over gRPC in a process of its own: photos and raw pixels get the model's rows."""
        with Served(self.work / "fp32.onnx", self.work / "models", self.device) as server:
            images = self._val_images()[:8]
            expected = Model(self.work / "fp32.onnx", device="cpu").predict(images)
            found = _compare(expected, infer(server.port, images))
            assert found["most_apart"] < 1e-4, found
            photo = sorted((self.work / "photos" / "val").glob("*/*.jpg"))[0]
            label = classify(server.port, [photo.read_bytes()])[0]
            wanted = CUDA if self.device == "cuda" else CPU
            assert wanted in server.said, server.said
        return {"said": server.said, "label": label, **found}

    def marked_tests(self) -> Found:
        """Run every test marked `gpu`."""
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "--timeout=200",
                   "tests/training/test_gpu.py", "tests/service/test_cuda.py"]  # fmt: skip
        done = subprocess.run(command, cwd=rig.ROOT, capture_output=True, text=True)
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        assert done.returncode in (0, 5), done.stdout[-3000:] + done.stderr[-2000:]
        if self.device == "cuda":
            assert "passed" in last and "skipped" not in last, last
        return {"pytest": last}

    def _val_images(self) -> np.ndarray:
        return np.ascontiguousarray(centre_crop(self.cache.splits["val"].images, self.scale.size))


def _apart(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Return how far apart two models' weights are, relative to their length."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    ours, theirs = zip(*((a.detach().cpu(), b.detach().cpu()) for a, b in pairs), strict=True)
    a, b = (torch.cat([p.flatten() for p in side]) for side in (ours, theirs))
    return float((a - b).norm() / a.norm())


def _history(run: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def _newest(run: Path) -> dict[str, torch.Tensor]:
    name = checkpoint.newest_good(run / "checkpoints")
    assert name is not None
    return checkpoint.load(run / "checkpoints" / name)[0]


def _in_parts(model: Model, images: np.ndarray) -> np.ndarray:
    return np.concatenate([model.predict(images[at : at + 32]) for at in range(0, len(images), 32)])


def _compare(expected: np.ndarray, answered: np.ndarray) -> Found:
    """Return how far two sets of rows are apart, and how many clear answers changed."""
    first_two = np.sort(expected, axis=1)[:, -2:]
    apart = np.abs(expected - answered).max(1)
    changed = expected.argmax(1) != answered.argmax(1)
    clear = first_two[:, 1] - first_two[:, 0] > 0.05
    return {
        "most_apart": float(apart.max()),
        "top1_changed": int(changed.sum()),
        "clear_top1_changed": int((changed & clear).sum()),
        "of": len(expected),
    }


def main() -> None:
    """Run the stages."""
    chosen = rig.options(__doc__)
    report = rig.Report("gpu-check", chosen)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(report.device, Path(folder))
        stages: list[tuple[Callable[[], Found], float]] = [
            (check.provider, 60),
            (check.step_parity, 60),
            (check.augmentation, 30),
            (check.curves, 150),
            (check.onnx, 120),
            (check.graphs, 90),
            (check.resume, 150),
            (check.jpeg, 30),
            (check.server, 60),
            (check.released, 90),
            (check.out_of_memory, 60),
            (check.marked_tests, 230),
            (check.compiled, 120),
        ]
        for work, most_s in stages:
            report.stage(work.__name__, work, most_s=most_s)
        report.end()


if __name__ == "__main__":
    main()
