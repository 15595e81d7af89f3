"""CPU time of the server per call over gRPC and over HTTP, at 32 callers with one connection each.

    python -m benchmarks.serving.ports

The model is the tests' tiny one, and the photo is 64 px: what is left is what a call itself costs.
The two ports are asked in turn, so that whatever else the machine does meets both.
"""

import asyncio
import statistics
import tempfile
from pathlib import Path

import grpc

from benchmarks import rig
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb.classifier_pb2_grpc import ClassifierStub

CALLERS, CALLS, ROUNDS = 32, 3000, 5


async def over_grpc(port: int, photo: bytes, calls: int) -> None:
    """Make so many calls over gRPC."""
    left, request = iter(range(calls)), pb.ClassifyRequest(images=[photo])

    async def caller() -> None:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = ClassifierStub(channel)
            for _ in left:
                await stub.Classify(request)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def over_http(port: int, photo: bytes, calls: int) -> None:
    """Make so many calls over HTTP."""
    left = iter(range(calls))
    size = len(photo)
    head = f"POST /v1/models/food:classify HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(head.encode() + photo)
            told = await reader.readuntil(b"\r\n\r\n")
            assert told.startswith(b"HTTP/1.1 200"), told
            length = told.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


def main() -> None:
    """Measure, and print a line for each port."""
    (photo,) = rig.photos(1, size=(64, 64))
    with tempfile.TemporaryDirectory() as folder:
        store = ModelRepository(Path(folder) / "models")
        store.publish("food", rig.tiny_model(Path(folder) / "tiny.onnx"))
        with rig.Server(store.root) as server:
            ports = {"gRPC": (over_grpc, server.port), "HTTP": (over_http, server.http_port)}
            found: dict[str, list[float]] = {name: [] for name in ports}
            for turn in range(ROUNDS + 1):
                for name, (calls, port) in ports.items():
                    before_s = server.cpu_s()
                    asyncio.run(calls(port, photo, CALLS))
                    if turn:  # the first one warms up
                        spent_s = server.cpu_s() - before_s
                        found[name].append(spent_s / CALLS * 1e6)
    for name, each in found.items():
        print(f"{name}: {statistics.median(each):.0f} µs of CPU a call (median of {len(each)})")


if __name__ == "__main__":
    main()
