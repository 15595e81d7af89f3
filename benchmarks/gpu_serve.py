"""Serving speed on CUDA, from the model alone to photos over gRPC, in under nine minutes.

    python benchmarks/gpu_serve.py [--device cpu] [--out FOLDER]     also: make gpu-bench

alone     what lies on the device already, one session: precision, layout, CUDA graphs, batch
lanes     with the copies to the device and back, as the server runs it
raw       uint8 pixels over gRPC, from processes of their own
jpeg      JPEGs of 500 x 500 over gRPC, decoded by the server on its cores
          both also through front ends in processes of their own (`--workers`)
decoding  cores against the device (torchvision's nvJPEG): whether the latter would earn its place

ResNet18 with random weights. Beside each figure over gRPC stands what was busy: the lanes, the
cores of the server's processes; what is busiest is the next bottleneck.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import gpu_rig as rig
from benchmarks.gpu_models import NUM_CLASSES, Served, Serving, decoded_tensor, random_model
from benchmarks.rig import ENVIRONMENT, percentile, photos
from service.config import num_cores
from service.cuda import LANES, CudaOptions, Lane
from service.model import CPU, CUDA, Model
from service.preprocessing import preprocess

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the measurements are."""

    size: int
    batches: tuple[int, ...]
    max_batch: int
    per_call: int
    clients: int
    seconds: float
    photo: int
    workers: int


SCALES = {
    "cuda": Scale(224, (1, 8, 32, 64, 128, 256), 64, 64, 6, 5.0, 500, max(num_cores() // 4, 2)),
    "cpu": Scale(32, (1, 8), 8, 8, 2, 0.6, 96, 2),
}
# Front ends share both limits, and connections do not spread evenly over them.
FLAGS = ("--queue-size", "16384", "--max-bytes-in-flight", str(2**31))

_START_S = 0.3
"""When the processes that make the load begin together, from the moment that all are ready."""


class Bench:
    """The measurements, over model files that are made once."""

    def __init__(self, device: str, work: Path) -> None:
        """Write the model files."""
        self.device = device
        self.scale = SCALES[device]
        self.work = work
        size = self.scale.size
        self.files = {
            "fp32": random_model(work / "fp32.onnx", image_size=size),
            "fp16": random_model(work / "fp16.onnx", image_size=size, half=True),
        }
        self.best: dict[str, float] = {}

    def alone(self, precision: str, options: CudaOptions) -> Found:
        """Run each batch size where it lies, and say how many images a second that is."""
        scale, rows = self.scale, []
        model = Model(self.files[precision], device=self.device, cuda=options)
        wanted = CUDA if self.device == "cuda" else CPU
        assert model.provider == wanted, f"{model.provider} is in use, not {wanted}"
        shape = (scale.size, scale.size, 3)
        lane = Lane(model._session, shape, NUM_CLASSES, scale.batches, self.device)
        lane.do(lane.prepare, model._cuda.graphs and self.device == "cuda")
        for batch in scale.batches:

            def measured(batch: int = batch) -> list[float]:
                took = []
                end_s = time.perf_counter() + scale.seconds / 5
                while time.perf_counter() < end_s or len(took) < 5:
                    start_s = time.perf_counter()
                    lane.again(batch)
                    took.append(time.perf_counter() - start_s)
                return took

            took = lane.do(measured)
            rate = batch * len(took) / sum(took)
            rows.append(
                {"batch": batch, "images_per_s": round(rate),
                 "p50_ms": round(1000 * percentile(took, 0.5), 3)}
            )  # fmt: skip
            self.best[precision] = max(self.best.get(precision, 0.0), rate)
        return {
            "graphs": model._cuda.graphs,
            "best_images_per_s": max(r["images_per_s"] for r in rows),
            "rows": rows,
        }

    def lanes(self, precision: str) -> Found:
        """Run batches from host memory, by as many threads as there are lanes and by one."""
        scale, rows = self.scale, []
        model = Model(self.files[precision], device=self.device)
        model.warm_up(scale.batches[-1])
        for batch, threads in itertools.product(scale.batches[1:], (1, LANES)):
            images = np.zeros((batch, scale.size, scale.size, 3), np.uint8)
            end_s = time.perf_counter() + scale.seconds / 5

            def again(_: int, images: np.ndarray = images, end_s: float = end_s) -> int:
                runs = 0
                while time.perf_counter() < end_s or runs < 2:
                    model.predict(images)
                    runs += 1
                return runs

            start_s = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                runs = sum(pool.map(again, range(threads)))
            rate = batch * runs / (time.perf_counter() - start_s)
            rows.append({"batch": batch, "threads": threads, "images_per_s": round(rate)})
        return {"best_images_per_s": max(row["images_per_s"] for row in rows), "rows": rows}

    @contextlib.contextmanager
    def served(self, precision: str, workers: int) -> Iterator[Serving]:
        """Serve a model file with the settings that the measurements want."""
        flags = ("--max-batch", str(self.scale.max_batch), "--workers", str(workers), *FLAGS)
        folder = Path(tempfile.mkdtemp(dir=self.work))
        with Served(self.files[precision], folder, self.device, *flags) as server:
            yield server

    def over_grpc(self, kind: str, precision: str, workers: int = 0) -> Found:
        """Load a server with one lone caller, then with many, and say what was busy."""
        scale, rows = self.scale, []
        plans = [(1, 1, 1), (scale.per_call, scale.clients, 2)]
        if kind == "raw":
            plans.append((scale.per_call, 1, 4))
        with self.served(precision, workers) as server:
            for images, clients, in_flight in plans:
                rows.append(self._loaded(server, kind, images, clients, in_flight))
            said = server.said
        best = max(rows, key=lambda row: row["images_per_s"])
        return {
            "front_ends": workers,
            "best_images_per_s": best["images_per_s"],
            "one_image_p50_ms": rows[0]["p50_ms"],
            "next_bottleneck": _busiest(best),
            "said": said,
            "rows": rows,
        }

    def _loaded(
        self, server: Serving, kind: str, images: int, clients: int, in_flight: int
    ) -> Found:
        scale = self.scale
        command = [sys.executable, "-m", "benchmarks.gpu_load", str(server.port), kind,
                   "--images", str(images), "--size", str(scale.size),
                   "--photo", str(scale.photo), "--in-flight", str(in_flight),
                   "--seconds", str(scale.seconds)]  # fmt: skip
        started = [
            subprocess.Popen(
                command, cwd=rig.ROOT, env=ENVIRONMENT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(clients)
        ]  # fmt: skip
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
        at = time.time() + _START_S
        for process in started:
            assert process.stdin is not None
            process.stdin.write(f"{at}\n")
            process.stdin.flush()
        time.sleep(max(at - time.time(), 0))
        before, each_before = _measures(server), server.each_cpu_s()
        time.sleep(scale.seconds)
        after, each_after = _measures(server), server.each_cpu_s()
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in started]
        took = [value for answer in answers for value in answer["took_s"]]
        assert took, "no call was answered"
        spent = {name: after[name] - before[name] for name in before}
        wall_s = spent.pop("at")
        cores = [
            round((value - each_before.get(pid, 0)) / wall_s, 2)
            for pid, value in each_after.items()
        ]
        return {
            "images_a_call": images,
            "calls_in_flight": clients * in_flight,
            "images_per_s": round(images * len(took) / scale.seconds),
            "p50_ms": round(1000 * percentile(took, 0.5), 2),
            "p99_ms": round(1000 * percentile(took, 0.99), 2),
            "failed": sum(answer["failed"] for answer in answers),
            "images_a_run": round(spent["images"] / max(spent["runs"], 1), 1),
            "lanes_busy": round(spent["compute"] / wall_s / LANES, 2),
            "decoders_busy": round(spent["decode"] / wall_s / num_cores(), 2),
            "models_process_cores": cores[0],
            "front_ends_cores": round(sum(cores[1:]), 2),
            "busiest_front_end_cores": max(cores[1:], default=0),
        }

    def decoding(self) -> Found:
        """Decode and cut JPEGs on all cores, and on the device."""
        scale, rows = self.scale, []
        data = photos(64, size=(scale.photo, scale.photo))
        batch = (data * 2)[: scale.batches[-1]]
        end_s = time.perf_counter() + scale.seconds / 2
        count = 0
        start_s = time.perf_counter()
        with ThreadPoolExecutor(num_cores()) as pool:
            while time.perf_counter() < end_s:
                list(pool.map(lambda photo: preprocess(photo, scale.size), batch))
                count += len(batch)
        rate = count / (time.perf_counter() - start_s)
        rows.append({"where": f"{num_cores()} cores", "images_per_s": round(rate)})
        steps = rig.rate(
            lambda: decoded_tensor(batch, scale.size, self.device), self.device,
            seconds=scale.seconds / 2, warm=2,
        )  # fmt: skip
        rows.append({"where": f"torchvision on {self.device}",
                     "images_per_s": round(steps * len(batch))})  # fmt: skip
        return {"photo": f"{scale.photo} x {scale.photo}", "rows": rows}

    def aims(self, stages: dict[str, Any]) -> Found:
        """Set the figures beside what was aimed at, on an H100."""

        def best(*names: str) -> float:
            found = [stages.get(name, {}).get("best_images_per_s", 0) for name in names]
            return float(max(found))

        raws = ("raw-fp16", "raw-fp32", "raw-fp16-workers")
        raw, jpeg = best(*raws), best("jpeg-fp16", "jpeg-fp16-workers")
        one = min(stages.get(name, {}).get("one_image_p50_ms", float("inf")) for name in raws)
        alone = max(self.best.values(), default=0.0)
        return {
            "alone_30000": [round(alone), alone >= 30_000],
            "raw_20000": [raw, raw >= 20_000],
            "jpeg_10000": [jpeg, jpeg >= 10_000],
            "one_image_p50_2_ms": [one, one <= 2.0],
        }


def _measures(server: Serving) -> dict[str, float]:
    return {
        "at": time.monotonic(),
        "compute": server.metric("hansang_compute_seconds_sum"),
        "runs": server.metric("hansang_compute_seconds_count"),
        "decode": server.metric("hansang_decode_seconds_sum"),
        "images": server.metric("hansang_batch_images_sum"),
    }


def _busiest(row: Found) -> str:
    """Name what was busiest while the most images were answered."""
    if row["lanes_busy"] > 0.8:
        return "the device, and the copies to it: both lanes are busy"
    if row["decoders_busy"] > 0.8:
        return "decoding: every core is at it"
    if row["models_process_cores"] > 0.9:
        return f"Python beside the models, whose process used {row['models_process_cores']} cores"
    if row["busiest_front_end_cores"] > 0.9:
        return "Python in a front end: more of them, or more connections for each to have some"
    return "the load, or the network between: the server waits"


def matrix() -> Iterator[tuple[str, str, CudaOptions]]:
    """Yield each way to run a model: its name, the file's precision, the options."""
    for precision, graphs, nhwc in itertools.product(
        ("fp16", "fp32", "tf32"), (True, False), (False, True)
    ):
        name = "-".join([precision, "nhwc" if nhwc else "nchw", "graphs" if graphs else "eager"])
        options = CudaOptions(graphs=graphs, nhwc=nhwc, tf32=precision == "tf32")
        yield name, "fp16" if precision == "fp16" else "fp32", options
    searched = CudaOptions(nhwc=True, search="EXHAUSTIVE")
    yield "fp16-nhwc-graphs-searched", "fp16", searched


def main() -> None:
    """Run the stages."""
    chosen = rig.options(__doc__)
    report = rig.Report("gpu-serve", chosen)
    with tempfile.TemporaryDirectory(prefix="gpu-serve-") as folder:
        bench = Bench(report.device, Path(folder))

        def alone(name: str, precision: str, options: CudaOptions) -> None:
            report.stage(name, lambda: bench.alone(precision, options), needs_s=10, most_s=60)

        def over_grpc(kind: str, precision: str, workers: int = 0) -> None:
            name = "-".join([kind, precision, *(["workers"] if workers else [])])
            work = functools.partial(bench.over_grpc, kind, precision, workers)
            report.stage(name, work, needs_s=20, most_s=90)

        models = list(matrix())
        # What the aims are of comes first.
        alone(*models.pop(0))
        report.stage("lanes-fp16", lambda: bench.lanes("fp16"), most_s=60)
        for kind, workers in itertools.product(("raw", "jpeg"), (0, bench.scale.workers)):
            over_grpc(kind, "fp16", workers)
        over_grpc("raw", "fp32")
        report.stage("decoding", bench.decoding, most_s=40)
        for model in models:
            alone(*model)
        report.stage("aims", lambda: bench.aims(report.data["stages"]), needs_s=0)
    # Not within: it exits at once, and the folder would stay, with its gigabyte.
    report.end()


if __name__ == "__main__":
    main()
