"""What a GPU must train the same as a CPU, and what twice: steps of benchmarks/gpu.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import training.loop.learner as learners
from benchmarks.gpu_stages.machine import c_compiler, python_h
from benchmarks.gpu_stages.made import Made
from benchmarks.gpu_stages.steps import Found, Step
from benchmarks.gpu_stages.steps import rows as told_rows
from service.pixels.preprocessing import resize_size
from training.config import AugmentConfig, TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.distributed.world import ALONE
from training.errors import RunError, StoppedError
from training.loop.batch_finder import find_micro_batch
from training.loop.learner import Learner, StepData
from training.loop.trainer import train
from training.runs import checkpoint


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the steps by name."""
    check = Training(Made(device, work))
    return {
        "compiler": check.compiler,
        "step_parity": check.step_parity,
        "resume": check.resume,
        "compiled": check.compiled,
        "out_of_memory": check.out_of_memory,
        "curves": check.curves,
        "augmentation": check.augmentation,
    }


class Training:
    """The steps; what one makes (photos, a run) the next ones use."""

    def __init__(self, made: Made) -> None:
        """Take what the checks share."""
        self.made = made
        self.device = made.device
        self.scale = made.scale

    def compiler(self) -> Found:
        """Compile one line: Triton wants a C compiler and Python.h, and other steps want Triton.

        Without them all that is compiled fails, and this says so first.
        """
        ones = torch.ones(64, device=self.device)
        found = torch.compile(lambda tensor: (2 * tensor + 1).relu())(ones)
        assert torch.equal(found, torch.full_like(ones, 3)), found
        return {"c_compiler": c_compiler(), "python_h": python_h()}

    def step_parity(self) -> Found:
        """Take the same fp32 steps on the CPU and on the device."""
        scale, rows = self.scale, told_rows()
        config = self.made.config(**{"precision": "fp32", "optimizer.ema": 0.9})
        both = [Learner(config, 7, torch.device(name)) for name in ("cpu", self.device)]
        random = np.random.default_rng(0)
        side = resize_size(scale.size)
        for step in range(3):
            images = torch.from_numpy(
                random.integers(0, 256, (scale.batch, side, side, 3), dtype=np.uint8)
            )
            targets = torch.arange(scale.batch) % 7
            parameters = sample_parameters(scale.batch, config.augment, seed=0, step=step)
            losses = []
            for learner in both:
                where = learner.device
                data = StepData(images.to(where), targets.to(where), parameters, size=scale.size)
                loss = learner.step(data, lr=0.01)
                learner.update_average(step)
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
        parameters = sample_parameters(64, config, seed=0, step=0)
        size = self.scale.size
        ours, share = augment(images, size, size, config, parameters)
        theirs, other = augment(images.to(self.device), size, size, config, parameters)
        apart = (ours - theirs.cpu()).abs()
        assert torch.allclose(share, other.cpu(), atol=1e-5)
        # A level that falls on the other side of a threshold (solarize, equalize) may differ.
        assert apart.mean() < 0.2, apart.mean()
        return {"mean_levels_apart": apart.mean().item(), "most": apart.max().item()}

    def curves(self) -> Found:
        """Train in fp32 and in bf16: both learn, and alike."""
        rows = []
        for precision in ("fp32", "bf16"):
            result = self.made.trained(precision)
            history = _history(self.made.run(precision))
            losses = [round(epoch["train_loss"], 4) for epoch in history]
            rows.append({"precision": precision, "val_top1": result.val_top1, "losses": losses})
            assert all(np.isfinite(losses)), losses
        if self.device == "cuda":
            ends = [row["losses"][-1] for row in rows]
            learnt = all(row["losses"][-1] < 0.8 * row["losses"][0] for row in rows)
            assert learnt, f"one did not learn: {rows}"
            # Eight epochs from random weights are rough: on a CPU they ended 17 to 19 % apart.
            assert abs(ends[1] - ends[0]) < 0.4 * ends[0], f"bf16 is another curve: {rows}"
        return {"rows": rows}

    def resume(self) -> Found:
        """Stop runs in mid-epoch and go on: the weights are those of one never stopped."""
        cases: dict[str, dict[str, Any]] = {"fp16": {"precision": "fp16"}}
        placements = ["memory-mapped"]
        if self.device == "cuda":
            placements = ["resident", "pinned"]
            cases = {"bf16": {"precision": "bf16"}, **cases}
            cases["bf16, compiled"] = {"precision": "bf16", "compile": "on"}
            cases["everything"] = {
                "optimizer.name": "adamw", "optimizer.ema": 0.9, "augment.trivial": 0.5,
                "augment.cutmix": 1.0, "augment.erasing": 0.3, "optimizer.clip_norm": 1.0,
            }  # fmt: skip
        rows = told_rows()
        for name, changes in cases.items():
            for placement in placements[:1] if "compile" in changes else placements:
                config = self.made.config(epochs=2, checkpoint_every_steps=3, **changes)
                label = f"resume-{name}-{placement}".replace(", ", "-")
                ends = []
                for stops in (0, 2):
                    run = self.made.work / "runs" / f"{label}-{stops}"
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
                train(config, self.made.cache, run, device=self.device, placement=placement,
                      should_stop=should_stop)  # fmt: skip
            except StoppedError:
                continue

    def compiled(self) -> Found:
        """Take the same steps eager, compiled and as CUDA graphs, whole and in micro-batches.

        Small steps on 64 photos: rounding sets weights 1e-5 apart in four of them, and another rate
        3e-4. At larger rates, of fewer photos, nothing would tell the one from the other.
        """
        size, batch, rows = self.scale.size, 64, told_rows()
        side = resize_size(size)
        images = torch.from_numpy(
            np.random.default_rng(2).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        ).to(self.device)
        targets = (torch.arange(batch) % 7).to(self.device)
        for micro, fast in ((0, "on"), (batch // 2, "graphs")):
            reference = None
            for mode in ("off", fast):
                config = self.made.config(
                    **{"compile": mode, "precision": "fp32", "micro_batch_size": micro},
                    batch_size=batch,
                )
                learner = Learner(config, 7, torch.device(self.device))
                for step in range(4):
                    parameters = sample_parameters(batch, config.augment, seed=0, step=step)
                    # Another rate each step: a graph must not keep the first one.
                    data = StepData(images, targets, parameters, size=size)
                    loss = learner.step(data, lr=5e-4 / (1 + step))
                reference = reference or learner
                row = {"compile": mode, "micro": micro, "loss": round(loss.item(), 5),
                       "weights_apart": _apart(reference.model, learner.model)}  # fmt: skip
                rows.append(row)
                assert row["weights_apart"] < 1e-4, rows
        return {"rows": rows}

    def out_of_memory(self) -> Found:
        """Ask for more than there is: the message names a size, and the search finds one."""
        if self.device != "cuda":
            return self._out_of_memory_rehearsed()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(2 * 2**30 / total, 1.0))
        try:
            config = self.made.config(batch_size=2**14, image_size=self.scale.size)
            found = find_micro_batch(config, self.made.cache, "cuda", ALONE)
            assert 0 < found.micro_batch_size < 2**14, found.micro_batch_size
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return {"batch": 2**14, "with_2_gib": found.micro_batch_size}

    def _out_of_memory_rehearsed(self) -> Found:
        whole = Learner._loss

        def small(self: Learner, data: StepData, rows: slice) -> Any:
            if len(data.targets[rows]) > 4:
                raise torch.OutOfMemoryError("rehearsed")
            return whole(self, data, rows)

        learners.Learner._loss = small  # type: ignore[method-assign]
        try:
            found = find_micro_batch(self.made.config(), self.made.cache, "cpu", ALONE)
        except RunError as error:
            raise AssertionError(f"the search ended: {error}") from error
        finally:
            learners.Learner._loss = whole  # type: ignore[method-assign]
        assert found.micro_batch_size == 4, found.micro_batch_size
        return {"rehearsed_with_room_for": 4}


def _apart(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Return how far apart two models' weights are, relative to their length."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    ours, theirs = zip(*((a.detach().cpu(), b.detach().cpu()) for a, b in pairs), strict=True)
    a, b = (torch.cat([p.flatten() for p in side]) for side in (ours, theirs))
    return float((a - b).norm() / a.norm())


def _history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def _newest(run: Path) -> dict[str, torch.Tensor]:
    name = checkpoint.newest_good(run / "checkpoints")
    assert name is not None
    return checkpoint.load(run / "checkpoints" / name)[0]
