"""Serving speed on CUDA, from the model alone to photos over gRPC: steps of benchmarks/gpu.py.

model      what lies on the device already, one session: precision, CUDA graphs, batch
lanes      with the copies to the device and back, as the server runs it
raw        uint8 pixels over gRPC, from processes of their own
jpeg       JPEGs of 500 x 500 over gRPC, decoded by the server on its cores
replicas   both, by several processes on one port (`--workers`)

ResNet18 with random weights. Beside each figure over gRPC stands what was busy: the lanes, the
cores of the server's processes; what is busiest is the next bottleneck.
"""

import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.gpu_stages.load import busiest, loaded
from benchmarks.gpu_stages.models import (
    NUM_CLASSES,
    Served,
    decoded_tensor,
    random_model,
)
from benchmarks.gpu_stages.steps import Found, Step, rate, rows, spent
from benchmarks.rig import percentile, photos
from machine import num_cores
from service.models.model import Model
from service.pixels.preprocessing import preprocess
from service.sessions.cuda import SESSIONS_PER_MODEL, CudaOptions, CudaSession
from service.sessions.opening import CPU, CUDA


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the measurements are."""

    size: int
    batches: tuple[int, ...]
    per_call: int
    clients: int
    seconds: float
    photo: int
    workers: int


SCALES = {
    "cuda": Scale(224, (1, 32, 256), 64, 6, 3.0, 500, max(num_cores() // 4, 2)),
    "cpu": Scale(32, (1, 8), 8, 2, 0.4, 96, 2),
}
# Replicas share both limits, and connections do not spread evenly over them.
FLAGS = ("--queue-size", "16384", "--max-bytes-in-flight", str(2**31))
EAGER = CudaOptions(graphs=False)
OPTIONS = {
    # Whether fp16 convolutions, too, lose their tensor cores where TF32 is off.
    "fp16, TF32": ("fp16", CudaOptions(tf32=True)),
    "fp16, NHWC": ("fp16", CudaOptions(nhwc=True)),
    "fp16, NHWC, searched": ("fp16", CudaOptions(nhwc=True, search="EXHAUSTIVE")),
    "fp32 as TF32": ("fp32", CudaOptions(tf32=True)),
    "fp32 as TF32, NHWC": ("fp32", CudaOptions(tf32=True, nhwc=True)),
}


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the steps by name."""
    bench = Bench(device, work)
    return {
        "model-fp16": partial(bench.alone, "fp16", CudaOptions()),
        "model-fp32": partial(bench.alone, "fp32", CudaOptions()),
        "model-fp16-eager": partial(bench.alone, "fp16", EAGER),
        "model-fp32-eager": partial(bench.alone, "fp32", EAGER),
        "one-process": partial(bench.over_grpc, "fp16", 0),
        "replicas": partial(bench.over_grpc, "fp16", bench.scale.workers),
        "raw-fp32": partial(bench.over_grpc, "fp32", 0),
        "profile-serving": bench.profile,
        "lanes": bench.lanes,
        "options": bench.options,
        "decoding": bench.decoding,
    }


class Bench:
    """The measurements, over model files that are made once."""

    def __init__(self, device: str, work: Path) -> None:
        """Work in a folder that is thrown away; model files lie beside it."""
        self.device = device
        self.scale = SCALES[device]
        self.work = work

    def file(self, precision: str) -> Path:
        """Return a model file."""
        return random_model(self.work.parent / "models", precision, self.device)

    def session(self, precision: str, options: CudaOptions) -> CudaSession:
        """Return a session that is ready for the batch sizes, as the server has it."""
        scale = self.scale
        model = Model(self.file(precision), device=self.device, cuda=options)
        wanted = CUDA if self.device == "cuda" else CPU
        assert model.provider == wanted, f"{model.provider} is in use, not {wanted}"
        assert model._cuda.graphs == options.graphs, "opened without graphs"
        shape = (scale.size, scale.size, 3)
        session = CudaSession(model._session, shape, NUM_CLASSES, scale.batches, self.device)
        session.do(session.prepare, model._cuda.graphs and self.device == "cuda")
        return session

    def measured(self, session: CudaSession, batch: int) -> Found:
        """Run what lies in a size's buffers again and again."""

        def took() -> list[float]:
            # The first runs of a size choose how to compute it.
            for _ in range(3):
                session.again(batch)
            times = []
            end_s = time.perf_counter() + self.scale.seconds / 3
            while time.perf_counter() < end_s or len(times) < 5:
                start_s = time.perf_counter()
                session.again(batch)
                times.append(time.perf_counter() - start_s)
            return times

        times = session.do(took)
        return {
            "batch": batch,
            "images_per_s": round(batch * len(times) / sum(times)),
            "p50_ms": round(1000 * percentile(times, 0.5), 3),
        }

    def alone(self, precision: str, options: CudaOptions) -> Found:
        """Run each batch size where it lies, and say how many images a second that is."""
        table, session = rows(), self.session(precision, options)
        for batch in self.scale.batches:
            table.append(self.measured(session, batch))
        return {"rows": table}

    def options(self) -> Found:
        """Run the largest batch with options that a server has no flag for."""
        table = rows()
        for name, (precision, options) in OPTIONS.items():
            session = self.session(precision, options)
            table.append({"options": name, **self.measured(session, self.scale.batches[-1])})
        return {"rows": table}

    def profile(self) -> Found:
        """Name what the device spends a batch on, copies included."""
        model = Model(self.file("fp16"), device=self.device, cuda=EAGER)
        batch = self.scale.batches[-1]
        images = np.zeros((batch, self.scale.size, self.scale.size, 3), np.uint8)
        model.warm_up(batch)
        return spent(lambda: [model.predict(images) for _ in range(4)], self.device, count=4)

    def lanes(self) -> Found:
        """Run batches from host memory, by as many threads as there are lanes and by one."""
        scale, table = self.scale, rows()
        model = Model(self.file("fp16"), device=self.device)
        model.warm_up(scale.batches[-1])
        for batch, threads in itertools.product(scale.batches[1:], (1, SESSIONS_PER_MODEL)):
            images = np.zeros((batch, scale.size, scale.size, 3), np.uint8)
            end_s = time.perf_counter() + scale.seconds / 3

            def again(_: int, images: np.ndarray = images, end_s: float = end_s) -> int:
                runs = 0
                while time.perf_counter() < end_s or runs < 2:
                    model.predict(images)
                    runs += 1
                return runs

            start_s = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                runs = sum(pool.map(again, range(threads)))
            images_per_s = batch * runs / (time.perf_counter() - start_s)
            table.append({"batch": batch, "threads": threads, "images_per_s": round(images_per_s)})
        return {"rows": table}

    def over_grpc(self, precision: str, workers: int) -> Found:
        """Load a server with raw pixels and with JPEGs, by many callers and by one.

        Replicas are `--workers N`: N whole servers on one port.
        """
        scale, table = self.scale, rows()
        flags = ("--max-batch", str(scale.per_call), "--workers", str(workers), *FLAGS)
        with Served(self.file(precision), self.work / f"{precision}-{workers}", self.device,
                    *flags) as server:  # fmt: skip
            for kind, images, clients in (
                ("raw", scale.per_call, scale.clients),
                ("raw", 1, 1),
                ("jpeg", scale.per_call, scale.clients),
                ("jpeg", 1, 1),
            ):
                in_flight = 2 if clients > 1 else 1
                row = loaded(server, kind, scale, images=images, clients=clients,
                             in_flight=in_flight)  # fmt: skip
                table.append({"kind": kind, **row, "busiest": busiest(row)})
            said = server.said
        return {"replicas": workers, "said": said, "rows": table}

    def decoding(self) -> Found:
        """Decode and cut JPEGs on all cores, and on the device."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        scale, table = self.scale, rows()
        data = photos(64, size=(scale.photo, scale.photo))
        batch = (data * 2)[:64]
        end_s = time.perf_counter() + scale.seconds / 2
        count = 0
        start_s = time.perf_counter()
        with ThreadPoolExecutor(num_cores()) as pool:
            while time.perf_counter() < end_s:
                list(pool.map(lambda photo: preprocess(photo, scale.size), batch))
                count += len(batch)
        on_cores = count / (time.perf_counter() - start_s)
        table.append({"where": f"{num_cores()} cores", "images_per_s": round(on_cores)})
        runs = rate(
            lambda: decoded_tensor(batch, scale.size, self.device), self.device,
            seconds=scale.seconds / 2, warm=2,
        )  # fmt: skip
        table.append({"where": f"torchvision on {self.device}",
                     "images_per_s": round(runs * len(batch))})  # fmt: skip
        # Without cutting, which torch does photo by photo.
        raw = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in batch]
        runs = rate(
            lambda: decode_jpeg(raw, mode=ImageReadMode.RGB, device=self.device), self.device,
            seconds=scale.seconds / 2, warm=2,
        )  # fmt: skip
        table.append({"where": f"torchvision on {self.device}, decoding alone",
                     "images_per_s": round(runs * len(batch))})  # fmt: skip
        return {"photo": f"{scale.photo} x {scale.photo}", "rows": table}
