"""A server under load: what it answered to processes of their own, and what was busy meanwhile.

    python -m benchmarks.gpu_stages.load PORT raw|jpeg --images 64 --size 224 --in-flight 2

is one such process: it calls as fast as it is answered, with some calls in flight, and prints JSON.
It says 'ready' once it has had an answer, and begins at the time (in seconds since 1970) that it
reads: several of them begin together, however long each took to start.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from benchmarks.rig import ENVIRONMENT, ROOT, Server, percentile, photos
from machine import num_cores
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc
from service.pb import inference_pb2 as oip
from service.pb import inference_pb2_grpc as oip_grpc
from service.sessions.cuda import SESSIONS_PER_MODEL

Found = dict[str, Any]
_START_S = 0.3
"""When the processes that make the load begin together, from the moment that all are ready."""
WIDE = [
    ("grpc.max_receive_message_length", 2**26),
    ("grpc.max_send_message_length", 2**26),
    ("grpc.enable_http_proxy", 0),
]


def raw_request(images_NHWC: np.ndarray) -> Any:
    """Return a request of the Open Inference Protocol with raw pixels."""
    request = oip.ModelInferRequest(model_name="food")
    request.inputs.add(name="images", datatype="UINT8", shape=images_NHWC.shape)
    request.raw_input_contents.append(images_NHWC.tobytes())
    return request


async def load(chosen: argparse.Namespace) -> dict[str, Any]:
    """Call until the time is over; count what was answered within it."""
    # A connection for each call in flight: each replica gets some.
    local = [*WIDE, ("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{chosen.port}", options=local)
            )
            for _ in range(chosen.in_flight)
        ]
        calls: list[Any]
        if chosen.kind == "raw":
            random = np.random.default_rng(0)
            shape = (chosen.images, chosen.size, chosen.size, 3)
            request = raw_request(random.integers(0, 256, shape, dtype=np.uint8))
            calls = [oip_grpc.GRPCInferenceServiceStub(each).ModelInfer for each in channels]
        else:
            encoded = photos(chosen.images, size=(chosen.photo, chosen.photo))
            request = pb.ClassifyRequest(images=encoded, top_k=1)
            calls = [pb_grpc.ClassifierStub(each).Classify for each in channels]
        await asyncio.gather(*(call(request, timeout=60) for call in calls))
        print("ready", flush=True)
        begin_s, took, failed = float(sys.stdin.readline()), [], 0
        await asyncio.sleep(max(begin_s - time.time(), 0))

        async def again(call: Any) -> None:
            nonlocal failed
            while (now_s := time.time()) < begin_s + chosen.seconds:
                try:
                    await call(request, timeout=60)
                except grpc.aio.AioRpcError:
                    failed += 1
                    continue
                if time.time() <= begin_s + chosen.seconds:
                    took.append(time.time() - now_s)

        await asyncio.gather(*(again(call) for call in calls))
    return {"calls": len(took), "failed": failed, "took_s": took}


def busiest(row: Found) -> str:
    """Name what was busiest while a server was loaded.

    A lane is busy while it waits for Python, too, so a busy process is named before the lanes.
    """
    if row["decoders_busy"] > 0.8:
        return "decoding: every core is at it"
    if row["busiest_process_cores"] > 0.9:
        return "Python in a process: more replicas, or more connections for each to have some"
    if row["lanes_busy"] > 0.8:
        return "the device, and the copies to it: all lanes are busy"
    return "the load, or the network between: the server waits"


def main() -> None:
    """Read the command line, load, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=("raw", "jpeg"))
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--photo", type=int, default=500)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    print(json.dumps(asyncio.run(load(parser.parse_args()))))


def loaded(
    server: Server, kind: str, scale: Any, *, images: int, clients: int, in_flight: int
) -> Found:
    """Load a server from processes of their own; return what it answered, and what was busy.

    Args:
        server: Of one model.
        kind: `raw` or `jpeg`.
        scale: Sides of the model's square and of the photos (`size`, `photo`), and `seconds`.
        images: In a call.
        clients: Processes.
        in_flight: Calls of each at a time.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_stages.load", str(server.port), kind,
               "--images", str(images), "--size", str(scale.size),
               "--photo", str(scale.photo), "--in-flight", str(in_flight),
               "--seconds", str(scale.seconds)]  # fmt: skip
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(clients)
    ]  # fmt: skip
    _begin_together(started)
    before, each_before = _measures(server), server.each_cpu_s()
    time.sleep(scale.seconds)
    after, each_after = _measures(server), server.each_cpu_s()
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    took = [value for answer in answers for value in answer["took_s"]]
    failed = sum(answer["failed"] for answer in answers)
    assert took, "no call was answered"
    assert failed <= 0.01 * len(took), f"{failed} calls failed, {len(took)} were answered"
    spent = {name: after[name] - before[name] for name in before}
    wall_s = spent.pop("at")
    cores = [
        round((value - each_before.get(pid, 0)) / wall_s, 2) for pid, value in each_after.items()
    ]
    # Replicas have a parent, which does nothing here.
    replicas = max(len(cores) - 1, 1)
    return {
        "images_a_call": images,
        "calls_in_flight": clients * in_flight,
        "images_per_s": round(images * len(took) / scale.seconds),
        "p50_ms": round(1000 * percentile(took, 0.5), 2),
        "p99_ms": round(1000 * percentile(took, 0.99), 2),
        "failed": failed,
        "images_a_run": round(spent["images"] / max(spent["runs"], 1), 1),
        "lanes_busy": round(spent["compute"] / wall_s / (SESSIONS_PER_MODEL * replicas), 2),
        "decoders_busy": round(spent["decode"] / wall_s / num_cores(), 2),
        "server_cores": round(sum(cores), 2),
        "busiest_process_cores": max(cores),
    }


def _begin_together(started: Sequence[subprocess.Popen[str]]) -> None:
    """Return when all of them are ready and have begun."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    at = time.time() + _START_S
    for process in started:
        assert process.stdin is not None
        process.stdin.write(f"{at}\n")
        process.stdin.flush()
    time.sleep(max(at - time.time(), 0))


def _measures(server: Server) -> dict[str, float]:
    return {
        "at": time.monotonic(),
        "compute": server.metric("hansang_compute_seconds_sum"),
        "runs": server.metric("hansang_compute_seconds_count"),
        "decode": server.metric("hansang_decode_seconds_sum"),
        "images": server.metric("hansang_batch_images_sum"),
    }


if __name__ == "__main__":
    main()
