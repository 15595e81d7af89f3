"""The servers that are compared, each in processes of its own that can be paused."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from benchmarks import rig
from benchmarks.serving.load import connect

PEERS = ("litserve", "mosec", "naive grpc", "mlserver", "bentoml")
OWN_ENVIRONMENTS = ("mlserver", "bentoml")
"""Peers whose packages go with no other's: theirs is beside the others', with its name behind."""
WITH_OPENVINO = tuple(f"{name} openvino" for name in PEERS)
"""The same peers with the engine of `hansang auto`."""
OURS = ("hansang auto", "hansang fp32", "hansang int8")
EMPTY, BARE = "hansang empty", "bare grpc.aio"
"""Our server with a model that costs nothing, and one that only answers: they get tiny photos."""

_FOLDER = rig.ROOT / "benchmarks" / "peers"
_FLAGS = {"hansang fp32": ("--cpu-engine", "onnxruntime")}


def environment_of(name: str, peers: Path) -> Path:
    """Return the environment of a peer, where `peers` is that of most of them."""
    name = name.removesuffix(" openvino")
    return peers.with_name(f"{peers.name}-{name}") if name in OWN_ENVIRONMENTS else peers


class Subject:
    """A server in a process group of its own, which can be made to stand still."""

    def __init__(self, name: str, model: Path, size: int, peers: Path | None) -> None:
        """Start it."""
        self.name = name
        self.port = rig.free_port()
        self._folder = tempfile.TemporaryDirectory()
        environment = {**rig.ENVIRONMENT, "OMP_NUM_THREADS": "1", "PORT": str(self.port)}
        if name in (*OURS, EMPTY):
            command = self._ours(model)
        elif name == BARE:
            command = [sys.executable, str(_FOLDER / "bare_grpc_aio.py")]
        else:
            environment |= {"MODEL": str(model), "SIZE": str(size)}
            environment |= {"SECOND_PORT": str(rig.free_port())}
            environment |= {"ENGINE": "openvino"} if name in WITH_OPENVINO else {}
            environment.pop("PYTHONPATH")
            command = self._peer(peers or Path())
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._start_s = time.monotonic()
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True,
            cwd=self._folder.name,
        )  # fmt: skip
        self.startup_s = 0.0

    def _ours(self, model: Path) -> list[str]:
        from service.models.repository import ModelRepository

        ModelRepository(Path(self._folder.name)).publish("food", model)
        return [
            *(sys.executable, "-m", "hansang", "serve", "--repository", self._folder.name),
            *("--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"),
            *("--http-port", "0", "--metrics-port", "0", "--reflection", "off"),
            # To its watchdog, standing still looks as if it hung.
            *("--run-timeout-s", "3600"),
            *_FLAGS.get(self.name, ()),
        ]

    def _peer(self, peers: Path) -> list[str]:
        name = self.name.removesuffix(" openvino")
        script = _FOLDER / ("naive_grpc.py" if name == "naive grpc" else f"{name}_server.py")
        command = [str(environment_of(name, peers) / "bin" / "python"), str(script)]
        if name == "mosec":
            command += ["--port", str(self.port), "--address", "127.0.0.1"]
            command += ["--timeout", "60000"]  # ms, as the others have
        return command

    async def ready(self, photo: bytes, within_s: float = 90) -> None:
        """Wait for the first answer."""
        while time.monotonic() - self._start_s < within_s:
            if self._process.poll() is not None:
                break
            try:
                async with connect(self.name, self.port, 1) as call:
                    await call(photo)
                self.startup_s = time.monotonic() - self._start_s
                return
            except Exception:  # whatever a server does that is not there yet
                await asyncio.sleep(0.05)
        self._log.seek(0)
        raise RuntimeError(f"{self.name} does not answer: {self._log.read()[-2000:]}")

    def rest(self) -> None:
        """Stand still."""
        _send(signal.SIGSTOP, self._processes())

    def go(self) -> None:
        """Go on."""
        _send(signal.SIGCONT, self._processes())

    def cpu_s(self) -> float:
        """Return the CPU time of its processes."""
        ticks = 0
        for path in self._processes():
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return its memory; what processes share counts once."""
        total = 0
        for path in self._processes():
            text = (path / "smaps_rollup").read_text()
            total += int(text.split("\nPss:")[1].split()[0])
        return total / 1024

    def _processes(self) -> list[Path]:
        """Return those of its session and what they started, whose session may be another."""
        known: dict[int, set[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
                known[int(path.name)] = {int(fields[1]), int(fields[3])}
        own = {self._process.pid}
        while more := {pid for pid, above in known.items() if above & own} - own:
            own |= more
        return [Path(f"/proc/{pid}") for pid in own & known.keys()]

    def stop(self) -> None:
        """End it and all of its processes."""
        self.go()
        processes = self._processes()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        _send(signal.SIGKILL, processes)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()


def _send(number: signal.Signals, processes: list[Path]) -> None:
    for path in processes:
        with suppress(ProcessLookupError):
            os.kill(int(path.name), number)


def start(
    stack: ExitStack, size: int, names: list[str], peers: Path | None, photos: list[bytes]
) -> tuple[dict[str, Path], list[Subject]]:
    """Write the models of one size and start the servers, which stand still in the end."""
    from service.pixels.preprocessing import preprocess
    from training.export.quantisation import to_int8

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    fp32 = rig.real_model(folder / "fp32.onnx", image_size=size)
    auto = rig.real_model(folder / "auto.onnx", image_size=size, bf16="allowed")
    models = {**dict.fromkeys(names, fp32), "hansang fp32": fp32, "hansang auto": auto}
    models[EMPTY] = rig.tiny_model(folder / "empty.onnx")
    if "hansang int8" in names:
        models["hansang int8"] = folder / "int8.onnx"
        images = np.stack([preprocess(photo, size) for photo in photos])
        to_int8(fp32, models["hansang int8"], images)
    subjects = []
    for name in names:
        subjects.append(Subject(name, models[name], size, peers))
        stack.callback(subjects[-1].stop)
    return models, subjects
