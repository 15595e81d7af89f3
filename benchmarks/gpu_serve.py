"""Serving speed on CUDA, from the model alone to photos over gRPC, in under nine minutes.

    python benchmarks/gpu_serve.py [--device cpu] [--out FOLDER]     also: make gpu-bench

alone     what lies on the device already, one session: precision, layout, CUDA graphs, batch
lanes     with the copies to the device and back, as the server runs it
raw       uint8 pixels over gRPC, from processes of their own
jpeg      JPEGs of 500 x 500 over gRPC, decoded by the server on its cores
          both also by replicas on one port (`--workers`)
decoding  cores against the device (torchvision's nvJPEG): whether the latter would earn its place

ResNet18 with random weights. Beside each figure over gRPC stands what was busy: the lanes, the
cores of the server's processes; what is busiest is the next bottleneck.
"""

import contextlib
import dataclasses
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.gpu_stages import rig
from benchmarks.gpu_stages.loaded import busiest, loaded
from benchmarks.gpu_stages.models import NUM_CLASSES, Served, Serving, decoded_tensor, random_model
from benchmarks.rig import percentile, photos
from machine import num_cores
from service.models.cuda import SESSIONS_PER_MODEL, CudaOptions, CudaSession
from service.models.model import CPU, CUDA, Model
from service.pixels.preprocessing import preprocess

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
# Replicas share both limits, and connections do not spread evenly over them.
FLAGS = ("--queue-size", "16384", "--max-bytes-in-flight", str(2**31))


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
        self.lanes_rate: dict[str, float] = {}

    def alone(self, precision: str, options: CudaOptions) -> Found:
        """Run each batch size where it lies, and say how many images a second that is."""
        scale, rows = self.scale, rig.kept_rows()
        model = Model(self.files[precision], device=self.device, cuda=options)
        wanted = CUDA if self.device == "cuda" else CPU
        assert model.provider == wanted, f"{model.provider} is in use, not {wanted}"
        assert model._cuda.graphs == options.graphs, "opened without graphs"
        shape = (scale.size, scale.size, 3)
        session = CudaSession(model._session, shape, NUM_CLASSES, scale.batches, self.device)
        session.do(session.prepare, model._cuda.graphs and self.device == "cuda")
        for batch in scale.batches:

            def measured(batch: int = batch) -> list[float]:
                # The first runs of a size choose how to compute it.
                for _ in range(3):
                    session.again(batch)
                took = []
                end_s = time.perf_counter() + scale.seconds / 5
                while time.perf_counter() < end_s or len(took) < 5:
                    start_s = time.perf_counter()
                    session.again(batch)
                    took.append(time.perf_counter() - start_s)
                return took

            took = session.do(measured)
            rate = batch * len(took) / sum(took)
            rows.append(
                {"batch": batch, "images_per_s": round(rate),
                 "p50_ms": round(1000 * percentile(took, 0.5), 3)}
            )  # fmt: skip
        best = max(row["images_per_s"] for row in rows)
        if options == CudaOptions():
            self.best[precision] = best
        return {"best_images_per_s": best, "rows": rows}

    def lanes(self, precision: str) -> Found:
        """Run batches from host memory, by as many threads as there are lanes and by one."""
        scale, rows = self.scale, rig.kept_rows()
        model = Model(self.files[precision], device=self.device)
        model.warm_up(scale.batches[-1])
        for batch, threads in itertools.product(scale.batches[1:], (1, SESSIONS_PER_MODEL)):
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
        best = self.lanes_rate[precision] = max(row["images_per_s"] for row in rows)
        return {"best_images_per_s": best, "rows": rows}

    @contextlib.contextmanager
    def served(self, precision: str, workers: int) -> Iterator[Serving]:
        """Serve a model file with the settings that the measurements want."""
        flags = ("--max-batch", str(self.scale.max_batch), "--workers", str(workers), *FLAGS)
        folder = Path(tempfile.mkdtemp(dir=self.work))
        with Served(self.files[precision], folder, self.device, *flags) as server:
            yield server

    def over_grpc(self, kind: str, precision: str, workers: int = 0) -> Found:
        """Load a server with one lone caller, then with many, and say what was busy."""
        scale, rows = self.scale, rig.kept_rows()
        plans = [(1, 1, 1), (scale.per_call, scale.clients, 2)]
        if kind == "raw":
            plans.append((scale.per_call, 1, 4))
        with self.served(precision, workers) as server:
            for images, clients, in_flight in plans:
                rows.append(
                    loaded(server, kind, scale, images=images, clients=clients,
                           in_flight=in_flight)
                )  # fmt: skip
            said = server.said
        best = max(rows, key=lambda row: row["images_per_s"])
        return {
            "replicas": workers,
            "best_images_per_s": best["images_per_s"],
            "one_image_p50_ms": rows[0]["p50_ms"],
            "next_bottleneck": busiest(best, self.lanes_rate.get(precision, 0.0)),
            "said": said,
            "rows": rows,
        }

    def decoding(self) -> Found:
        """Decode and cut JPEGs on all cores, and on the device."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        scale, rows = self.scale, rig.kept_rows()
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
        # Without cutting, which torch does photo by photo.
        raw = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in batch]
        steps = rig.rate(
            lambda: decode_jpeg(raw, mode=ImageReadMode.RGB, device=self.device), self.device,
            seconds=scale.seconds / 2, warm=2,
        )  # fmt: skip
        rows.append({"where": f"torchvision on {self.device}, decoding alone",
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
        # As a server runs it: other options are measured, and cannot be told to one.
        alone = max(self.best.values(), default=0.0)
        return {
            "alone_30000": [round(alone), alone >= 30_000],
            "raw_20000": [raw, raw >= 20_000],
            "jpeg_10000": [jpeg, jpeg >= 10_000],
            "one_image_p50_2_ms": [one, one <= 2.0],
        }


def matrix() -> Iterator[tuple[str, str, CudaOptions]]:
    """Yield each way to run a model: its name, the file's precision, the options."""
    yield "fp16-nchw-graphs", "fp16", CudaOptions()
    # Whether fp16 convolutions, too, lose their tensor cores where TF32 is off.
    yield "fp16-nchw-graphs-tf32", "fp16", CudaOptions(tf32=True)
    for precision, graphs, nhwc in itertools.product(
        ("fp16", "fp32", "tf32"), (True, False), (False, True)
    ):
        name = "-".join([precision, "nhwc" if nhwc else "nchw", "graphs" if graphs else "eager"])
        options = CudaOptions(graphs=graphs, nhwc=nhwc, tf32=precision == "tf32")
        if name == "fp16-nchw-graphs":
            continue
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
        for model in models[:2]:
            alone(*model)
        for precision in ("fp16", "fp32"):
            report.stage(f"lanes-{precision}", functools.partial(bench.lanes, precision), most_s=60)
        for kind, workers in itertools.product(("raw", "jpeg"), (0, bench.scale.workers)):
            over_grpc(kind, "fp16", workers)
        over_grpc("raw", "fp32")
        report.stage("decoding", bench.decoding, most_s=40)
        for model in models[2:]:
            alone(*model)
        report.stage("aims", lambda: bench.aims(report.data["stages"]), needs_s=float("-inf"))
    # Not within: it exits at once, and the folder would stay, with its gigabyte.
    report.end()


if __name__ == "__main__":
    main()
