"""The stub of `hansang.v1.Classifier` over HTTP, so that one scenario tries gRPC and HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import grpc
from google.protobuf import json_format

from benchmarks import rig
from service.pb import classifier_pb2 as pb

_ASKED_S = 0.1
"""How often each server is asked whether it is ready: well within a drain's delay."""


class HttpStub:
    """Calls one of several servers: those that are ready take turns, as behind a balancer."""

    def __init__(self, session: aiohttp.ClientSession, ports: Sequence[int]) -> None:
        self._session = session
        self._ports = list(ports)
        self._ready = list(ports)
        self._turn = 0
        self._name = ""

    async def Classify(  # noqa: N802  # as the stub of gRPC
        self,
        request: pb.ClassifyRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> pb.ClassifyResponse:
        """Send photos as a form, one alone as the body."""
        model = request.model or await self._model()
        path = f"/v1/models/{model}:classify?topK={request.top_k}"
        body: Any = request.images[0]
        if len(request.images) > 1:
            body = aiohttp.FormData()
            for number, image in enumerate(request.images):
                body.add_field("photo", image, filename=f"{number}.jpg")
        answer = pb.ClassifyResponse()
        return json_format.Parse(await self._ask("POST", path, body, timeout), answer)

    async def GetModel(self, request: pb.GetModelRequest) -> pb.Model:  # noqa: N802
        """Ask for the description of a model."""
        model = request.model or await self._model()
        return json_format.Parse(await self._ask("GET", f"/v1/models/{model}"), pb.Model())

    async def follow(self) -> None:
        """Ask each server whether it is ready, until cancelled."""
        while True:
            found = await asyncio.gather(*(self._is_ready(port) for port in self._ports))
            self._ready = [port for port, ready in zip(self._ports, found, strict=True) if ready]
            await asyncio.sleep(_ASKED_S)

    async def _is_ready(self, port: int) -> bool:
        with suppress(aiohttp.ClientError, OSError):
            url = f"http://127.0.0.1:{port}/v2/health/ready"
            async with self._session.get(url) as answer:
                return answer.status == 200
        return False

    async def _model(self) -> str:
        if not self._name:
            found = json.loads(await self._ask("GET", "/v1/models"))
            self._name = found["models"][0]["name"]
        return self._name

    async def _ask(
        self, method: str, path: str, body: Any = None, timeout_s: float | None = None
    ) -> str:
        """Return the answer's text.

        Raises:
            AioRpcError: The server refused, or cannot be reached; as over gRPC.
        """
        if not self._ready:
            raise refused(grpc.StatusCode.UNAVAILABLE, "no server is ready")
        self._turn += 1
        url = f"http://127.0.0.1:{self._ready[self._turn % len(self._ready)]}{path}"
        headers = {} if timeout_s is None else {"x-request-timeout-ms": f"{timeout_s * 1000:.0f}"}
        try:
            async with self._session.request(method, url, data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status == 200:
                    return text
                raise problem(text, hinted="retry-after" in answer.headers)
        except (aiohttp.ClientError, OSError) as error:
            raise refused(grpc.StatusCode.UNAVAILABLE, repr(error)) from error


@asynccontextmanager
async def http_stub(ports: Sequence[int]) -> AsyncIterator[HttpStub]:
    """Connect to servers on these HTTP ports, without retries and with no limit of connections."""
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        stub = HttpStub(session, ports)
        following = asyncio.create_task(stub.follow()) if len(ports) > 1 else None
        try:
            yield stub
        finally:
            if following is not None:
                following.cancel()


@asynccontextmanager
async def connected(server: rig.Server, *, http: bool) -> AsyncIterator[Any]:
    """Connect to one server, over gRPC or over HTTP; both stubs have the same calls."""
    if http:
        async with http_stub([server.http_port]) as over_http:
            yield over_http
    else:
        async with rig.stub(f"127.0.0.1:{server.port}") as over_grpc:
            yield over_grpc


def refused(code: grpc.StatusCode, text: str, *, hinted: bool = False) -> grpc.aio.AioRpcError:
    """Return what gRPC's client would raise; `hinted` says that it told when to try again."""
    trailing = (("grpc-status-details-bin", b""),) if hinted else ()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), text)


def problem(text: str | bytes, *, hinted: bool) -> grpc.aio.AioRpcError:
    """Return what gRPC's client would raise for the body of an answer that is not OK."""
    found = json.loads(text)
    return refused(grpc.StatusCode[found["code"]], found["detail"], hinted=hinted)
