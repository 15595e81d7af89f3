"""The paths of Triton's extensions that this server does not have: see service/api/not_offered.py.

GET …/status, …/trace/setting, /v2/logging     nothing
POST …/unregister                              done
POST …/register, and settings                  400, in a sentence
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.http.body import Bodies
from service.http.tensors_json import parse
from service.pb import inference_pb2 as pb

Ask = Callable[..., Awaitable[Response]]
"""Calls a method of the Open Inference Protocol: `Api.ask`."""


def not_offered(ask: Ask, bodies: Bodies) -> list[Route]:
    """Return the routes."""

    def answering(method: str, message: Any, content: Any) -> Callable[..., Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            async def read() -> Any:
                await bodies.read(request)
                return message

            return await ask(request, method, read, lambda _: JSONResponse(content))

        return answer

    def setting(method: str, kind: Any) -> Callable[..., Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            async def read() -> Any:
                message = kind()
                for name, value in parse(await bodies.read(request)).items():
                    if value is not None:
                        message.settings[name].SetInParent()
                return message

            return await ask(request, method, read, lambda _: JSONResponse({}))

        return answer

    both = ["GET", "POST"]
    traces = setting("TraceSetting", pb.TraceSettingRequest)
    found = [
        Route("/v2/trace/setting", traces, methods=both),
        Route("/v2/models/{model}/trace/setting", traces, methods=both),
        Route("/v2/logging", setting("LogSettings", pb.LogSettingsRequest), methods=both),
    ]
    for kind in ("System", "Cuda"):
        root = f"/v2/{kind.lower()}sharedmemory"
        method = f"{kind}SharedMemory"

        def request(verb: str, method: str = method) -> Any:
            return getattr(pb, f"{method}{verb}Request")()

        for path in (root, f"{root}/region/{{name}}"):
            status = answering(f"{method}Status", request("Status"), [])
            gone = answering(f"{method}Unregister", request("Unregister"), {})
            found += [
                Route(f"{path}/status", status),
                Route(f"{path}/unregister", gone, methods=["POST"]),
            ]
        register = answering(f"{method}Register", request("Register"), {})
        found.append(Route(f"{root}/region/{{name}}/register", register, methods=["POST"]))
    return found
