"""Health checks in a process of their own, so that nothing but the server holds them up.

python -m benchmarks.trouble.health_checks HOST:PORT SERVER_PID     until stdin ends
"""

import json
import select
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def waiting_s(pid: str) -> float:
    """Return for how long the first thread of a process has waited for a core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def main() -> None:
    """Check until stdin ends; print the longest checks, by the clock and less waits for a core."""
    address, pid = sys.argv[1:]
    times_s: list[float] = []
    on_a_core_s: list[float] = []
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(), timeout=60)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            waited_s, start_s = waiting_s(pid) + waiting_s("self"), time.monotonic()
            check(health_pb2.HealthCheckRequest(), timeout=60)
            times_s.append(time.monotonic() - start_s)
            waited_s = waiting_s(pid) + waiting_s("self") - waited_s
            on_a_core_s.append(times_s[-1] - waited_s)
    found = {
        "checks": len(times_s),
        "health_ms": round(1000 * max(times_s, default=0)),
        "on_a_core_ms": round(1000 * max(on_a_core_s, default=0)),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
