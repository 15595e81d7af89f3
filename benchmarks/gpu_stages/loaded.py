"""A server under load: what it answered, and what was busy meanwhile."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_stages.models import Serving
from benchmarks.gpu_stages.rig import ROOT
from benchmarks.rig import ENVIRONMENT, percentile
from machine import num_cores
from service.models.cuda import SESSIONS_PER_MODEL

Found = dict[str, Any]
_START_S = 0.3
"""When the processes that make the load begin together, from the moment that all are ready."""


def loaded(
    server: Serving, kind: str, scale: Any, *, images: int, clients: int, in_flight: int
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


def _measures(server: Serving) -> dict[str, float]:
    return {
        "at": time.monotonic(),
        "compute": server.metric("hansang_compute_seconds_sum"),
        "runs": server.metric("hansang_compute_seconds_count"),
        "decode": server.metric("hansang_decode_seconds_sum"),
        "images": server.metric("hansang_batch_images_sum"),
    }


def busiest(row: Found, device_images_per_s: float) -> str:
    """Name what was busiest while the most images were answered.

    A lane is busy while it waits for Python, too: it is the device that holds only where about as
    much is answered as the lanes alone do.
    """
    near = row["images_per_s"] > 0.8 * device_images_per_s
    if row["lanes_busy"] > 0.8 and near:
        return "the device, and the copies to it: all lanes are busy"
    if row["decoders_busy"] > 0.8:
        return "decoding: every core is at it"
    if row["busiest_process_cores"] > 0.9:
        return "Python in a process: more replicas, or more connections for each to have some"
    return "the load, or the network between: the server waits"
