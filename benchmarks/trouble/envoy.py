"""Envoy before servers of this machine, which limits the calls that are under way."""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks import rig

CONFIG = rig.ROOT / "deploy" / "envoy" / "envoy.yaml"


class Envoy:
    """Envoy before servers of this machine, as deploy/envoy/envoy.yaml says."""

    def __init__(self, ports: Sequence[int], *, cores: Collection[int] = (), most: int = 0) -> None:
        """Start it, on these cores alone if any are named; `ready` waits until it serves.

        Args:
            ports: Those of the servers.
            cores: Where it runs.
            most: Calls at a time; 0: as the file says.
        """
        import yaml

        config = yaml.safe_load(CONFIG.read_text())
        self.port, self._admin = rig.free_port(), rig.free_port()
        config["admin"]["address"]["socket_address"]["port_value"] = self._admin
        (listener,) = config["static_resources"]["listeners"]
        listener["address"]["socket_address"].update(address="127.0.0.1", port_value=self.port)
        (cluster,) = config["static_resources"]["clusters"]
        (group,) = cluster["load_assignment"]["endpoints"]
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}}
            for p in ports
        ]
        if most:
            cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = most
        self._servers = len(ports)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "envoy.json"
        path.write_text(json.dumps(config))
        self._log = (Path(self._folder.name) / "log").open("w+")
        self.process = subprocess.Popen(
            ["envoy", "-c", path, "--concurrency", "1", "--disable-hot-restart"],
            cwd=rig.ROOT, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        if cores:
            os.sched_setaffinity(self.process.pid, cores)

    def ready(self, *, within_s: float = 30) -> "Envoy":
        """Wait until every server is healthy for it."""
        end_s = time.monotonic() + within_s
        while self._healthy() < self._servers:
            if time.monotonic() > end_s:
                self._log.seek(0)
                raise RuntimeError(f"Envoy is not ready: {self._log.read()[-3000:]}")
            time.sleep(0.1)
        return self

    def _healthy(self) -> int:
        url = f"http://127.0.0.1:{self._admin}/clusters"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.read().decode().count("health_flags::healthy"))
        except OSError:
            return 0

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> "Envoy":
        return self.ready()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
        self._folder.cleanup()
