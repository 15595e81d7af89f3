"""Load for servers that speak gRPC or HTTP: closed loops, and arrivals at random times."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from service.pb import classifier_pb2 as pb
from service.pb import inference_pb2 as v2

Call = Callable[[bytes], Awaitable[None]]
"""Sends one photo and takes the answer; raises if there is none."""


class _Http:
    """HTTP/1.1 over connections that are kept: as little work for the sender as can be."""

    def __init__(self, port: int, path: str, kind: str, connections: int) -> None:
        self._port, self._path, self._kind = port, path, kind
        self._free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]
        self._free = asyncio.LifoQueue()
        for _ in range(connections):
            self._free.put_nowait(None)

    async def post(self, body: bytes) -> None:
        """Send a body and read the answer."""
        kept = await self._free.get()
        try:
            kept = kept or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = kept
            writer.write(
                f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {self._kind}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
            if " 200 " not in head.splitlines()[0]:
                raise RuntimeError(head.splitlines()[0])
        except BaseException:
            if kept:
                kept[1].close()
            kept = None
            raise
        finally:
            self._free.put_nowait(kept)

    def close(self) -> None:
        """Close every connection."""
        while not self._free.empty():
            if kept := self._free.get_nowait():
                kept[1].close()


def _as_json(photo: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(photo).decode()}).encode()


def _as_form(photo: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="photo"\r\n\r\n'
    return head + photo + b"\r\n--x--\r\n"


_HTTP: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "litserve": ("/predict", "application/json", _as_json),
    "mosec": ("/inference", "application/octet-stream", bytes),
    "bentoml": ("/classify", "multipart/form-data; boundary=x", _as_form),
}
"""Path, media type, and what is made of a photo."""


def _naive(channel: grpc.aio.Channel) -> Call:
    method = channel.unary_unary("/naive/Classify")

    async def send(photo: bytes) -> None:
        await method(photo, timeout=60)

    return send


def _method(channel: grpc.aio.Channel, name: str, request: Any, response: Any) -> Any:
    """Return what calls a method with protobuf's messages."""
    return channel.unary_unary(
        name,
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )


def _mlserver(channel: grpc.aio.Channel) -> Call:
    name = "/inference.GRPCInferenceService/ModelInfer"
    method = _method(channel, name, v2.ModelInferRequest, v2.ModelInferResponse)

    async def send(photo: bytes) -> None:
        contents = v2.InferTensorContents(bytes_contents=[photo])
        tensor = v2.ModelInferRequest.InferInputTensor(
            name="photos", datatype="BYTES", shape=[1, 1], contents=contents
        )
        answer = await method(v2.ModelInferRequest(model_name="food", inputs=[tensor]), timeout=60)
        if not answer.outputs[0].contents.bytes_contents[0]:
            raise RuntimeError("no classes")

    return send


def _ours(channel: grpc.aio.Channel) -> Call:
    name = "/hansang.v1.Classifier/Classify"
    method = _method(channel, name, pb.ClassifyRequest, pb.ClassifyResponse)

    async def send(photo: bytes) -> None:
        answer = await method(pb.ClassifyRequest(images=[photo]), timeout=60)
        if not answer.results[0].classes:
            raise RuntimeError(answer.results[0].error.message)

    return send


_GRPC = {"naive grpc": _naive, "bare grpc.aio": _naive, "mlserver": _mlserver}


@asynccontextmanager
async def connect(name: str, port: int, connections: int) -> AsyncIterator[Call]:
    """Give what sends a photo to this server."""
    name = name.removesuffix(" openvino")
    if name in _HTTP:
        path, kind, body = _HTTP[name]
        http = _Http(port, path, kind, connections)
        try:
            yield lambda photo: http.post(body(photo))
        finally:
            http.close()
        return
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield _GRPC.get(name, _ours)(channel)


async def closed(call: Call, photos: list[bytes], callers: int, seconds: float) -> list[float]:
    """Keep so many calls in flight; return the seconds of each, once all are answered."""
    taken_s: list[float] = []
    end_s = time.monotonic() + seconds

    async def again(at: int) -> None:
        while time.monotonic() < end_s or not taken_s:
            start_s = time.monotonic()
            await call(photos[at % len(photos)])
            taken_s.append(time.monotonic() - start_s)
            at += callers

    await asyncio.gather(*(again(at) for at in range(callers)))
    return taken_s


async def opened(
    call: Call, photos: list[bytes], rate: float, seconds: float, rng: random.Random
) -> tuple[list[float], int]:
    """Send photos at random times, `rate` a second on average, answered or not.

    Returns the seconds of each from the time it was due, and how many had no answer.
    """
    taken_s: list[float] = []
    failed = 0

    async def one(due_s: float, photo: bytes) -> None:
        nonlocal failed
        try:
            await call(photo)
        except Exception:  # refused, cut off, too late: it has no answer
            failed += 1
        else:
            taken_s.append(time.monotonic() - due_s)

    start_s = due_s = time.monotonic()
    calls = set()
    while due_s < start_s + seconds:
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        task = asyncio.create_task(one(due_s, rng.choice(photos)))
        calls.add(task)
        task.add_done_callback(calls.discard)
        due_s += rng.expovariate(rate)
    if calls:
        await asyncio.wait(calls)
    return taken_s, failed
