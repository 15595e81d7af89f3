"""Photos over HTTP at the least cost to who sends them: overload must come from one core.

call ─► free connection, of at most 64 ─► httptools' parser ─► what gRPC would return or raise
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httptools
from google.protobuf import json_format

from benchmarks.http_door import problem, refused
from service.pb import classifier_pb2 as pb

_CONNECTIONS = 64
"""Most connections of a stub, as a proxy holds; each carries one call at a time."""


class _Answer:
    """One answer, as httptools tells of it."""

    def __init__(self) -> None:
        self.hinted = False
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Note a hint when to try again."""
        self.hinted = self.hinted or name.lower() == b"retry-after"

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note that this was all."""
        self.complete = True


class LoadStub:
    """Classifies single photos on connections that are kept."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model
        self._free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]
        self._free = asyncio.LifoQueue()
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(None)

    async def Classify(  # noqa: N802  # as the stub of gRPC
        self,
        request: pb.ClassifyRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> pb.ClassifyResponse:
        """Send one photo as the body.

        Raises:
            AioRpcError: It was refused, the deadline is over, or no connection was free until then.
        """
        connection, taken = None, False
        try:
            async with asyncio.timeout(timeout):
                connection, taken = await self._free.get(), True
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = connection
                writer.write(self._head(request, timeout) + request.images[0])
                answer = _Answer()
                parser = httptools.HttpResponseParser(answer)
                while not answer.complete:
                    if not (data := await reader.read(2**16)):
                        raise ConnectionResetError("the server closed the connection")
                    parser.feed_data(data)
                status, keeps = parser.get_status_code(), parser.should_keep_alive()
        except BaseException as error:
            if connection is not None:
                connection[1].transport.abort()
            if taken:
                self._free.put_nowait(None)
            if isinstance(error, TimeoutError) and taken:
                raise refused(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline is over") from error
            if isinstance(error, OSError):  # TimeoutError is one
                raise refused(grpc.StatusCode.UNAVAILABLE, repr(error)) from error
            raise
        if not keeps:
            writer.close()
        self._free.put_nowait(connection if keeps else None)
        if status == 200:
            return json_format.Parse(answer.body, pb.ClassifyResponse())
        raise problem(answer.body, hinted=answer.hinted)

    def _head(self, request: pb.ClassifyRequest, timeout_s: float | None) -> bytes:
        lines = [
            f"POST /v1/models/{self._model}:classify?topK={request.top_k} HTTP/1.1",
            f"host: 127.0.0.1:{self._port}",
            f"content-length: {len(request.images[0])}",
            *([] if timeout_s is None else [f"x-request-timeout-ms: {1000 * timeout_s:.0f}"]),
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def close(self) -> None:
        """Close what is not in use."""
        while not self._free.empty():
            if connection := self._free.get_nowait():
                connection[1].close()


@asynccontextmanager
async def load_stub(port: int, model: str) -> AsyncIterator[LoadStub]:
    """Yield a stub whose connections are opened as they are needed."""
    stub = LoadStub(port, model)
    try:
        yield stub
    finally:
        stub.close()
