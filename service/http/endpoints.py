"""The endpoints: which URL calls which method of the gRPC services."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from service.api.classifier import ClassifierServicer
from service.api.interceptors import CallInterceptor
from service.api.open_inference import OpenInferenceServicer
from service.errors import InvalidArgumentError, UnavailableError
from service.http.body import Bodies, made_of
from service.http.calls import Calls
from service.http.not_offered import not_offered
from service.http.photos import mapped, read_classify
from service.http.problems import problem
from service.http.tensors_json import LENGTH_HEADER, InferRequest, infer_response, parse, plain
from service.pb import classifier_pb2 as classifier_pb
from service.pb import inference_pb2 as pb

CLASSIFIER = classifier_pb.DESCRIPTOR.services_by_name["Classifier"].full_name
INFERENCE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_REFUSED_EARLY = (
    (re.compile("/v1/models/[^/:]+:classify"), f"/{CLASSIFIER}/Classify"),
    (re.compile("/v2/models/[^/]+(/versions/[^/]+)?/infer"), f"/{INFERENCE}/ModelInfer"),
)


class Api:
    """The endpoints, each of which calls a method of a servicer."""

    def __init__(
        self,
        classifier: ClassifierServicer,
        inference: OpenInferenceServicer,
        interceptor: CallInterceptor,
        bodies: Bodies,
        ready: Callable[[], bool],
    ) -> None:
        """Share the servicers of the gRPC server.

        Args:
            classifier: Answers `/v1`.
            inference: Answers `/v2`.
            interceptor: Wraps every call, as over gRPC.
            bodies: Reads what is sent.
            ready: Returns whether the server takes calls.
        """
        self._classifier = classifier
        self._inference = inference
        self._calls = Calls(interceptor)
        self._bodies = bodies
        self._ready = ready

    def routes(self) -> list[Route]:
        """Return the routes; the paths of a model in `/v2` exist with and without a version."""
        model = "/v2/models/{model}"
        found = [
            Route("/v1/models", self.models),
            # A model's name has no colon.
            Route("/v1/models/{model}:classify", self.classify, methods=["POST"]),
            Route("/v1/models/{model}:reportMistake", self.report_mistake, methods=["POST"]),
            Route("/v1/models/{model}", self.model),
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/stats", self.statistics),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            found += [
                Route(path, self.model_metadata),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/config", self.model_config),
                Route(f"{path}/stats", self.statistics),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return [*found, *not_offered(self.ask, self._bodies)]

    def refusal(self, scope: Scope) -> Response | None:
        """Return a full server's refusal of a request, or None.

        It is asked before the application, whose work for a refusal would be taken from the calls
        that are admitted.
        """
        for pattern, method in _REFUSED_EARLY:
            if scope["method"] == "POST" and pattern.fullmatch(scope["path"]):
                return self._calls.refusal(Headers(scope=scope), method)
        return None

    async def classify(self, request: Request) -> Response:
        """Name the dishes on 1 to 64 photos."""

        async def read() -> classifier_pb.ClassifyRequest:
            return await read_classify(request, await self._bodies.read(request))

        return await self._calls.answer(
            request, f"/{CLASSIFIER}/Classify", read, self._classifier.Classify, mapped
        )

    async def report_mistake(self, request: Request) -> Response:
        """Keep a photo that was answered wrongly, for a person to look at."""

        async def read() -> classifier_pb.ReportMistakeRequest:
            return classifier_pb.ReportMistakeRequest(
                model=request.path_params["model"],
                label=request.query_params.get("label", ""),
                image=await self._bodies.read(request),
            )

        return await self._calls.answer(
            request, f"/{CLASSIFIER}/ReportMistake", read, self._classifier.ReportMistake, mapped
        )

    async def model(self, request: Request) -> Response:
        """Describe a model: its labels, its accuracy, where it comes from."""
        message = classifier_pb.GetModelRequest(
            model=request.path_params["model"], version=_version(request)
        )
        return await self._calls.answer(
            request, f"/{CLASSIFIER}/GetModel", _given(message), self._classifier.GetModel, mapped
        )

    async def models(self, request: Request) -> Response:
        """List the models that are served."""
        return await self.ask(
            request, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True), _served
        )

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        """Tell whether the process answers; needs no token."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """Tell whether the server takes calls; needs no token."""
        if self._ready():
            return JSONResponse({"ready": True})
        return problem(UnavailableError("the server starts, drains, or a model of it fails"))

    async def server_metadata(self, request: Request) -> Response:
        """Name the server and its extensions."""
        return await self.ask(request, "ServerMetadata", pb.ServerMetadataRequest())

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a version of a model is loaded and works."""

        def write(answer: pb.ModelReadyResponse) -> Response:
            if answer.ready:
                return JSONResponse({"name": request.path_params["model"], "ready": True})
            return problem(UnavailableError(f"{request.path_params['model']} is not ready"))

        return await self.ask(request, "ModelReady", pb.ModelReadyRequest(**_which(request)), write)

    async def model_metadata(self, request: Request) -> Response:
        """Describe the tensors of a model."""
        message = pb.ModelMetadataRequest(**_which(request))
        return await self.ask(request, "ModelMetadata", message)

    async def model_config(self, request: Request) -> Response:
        """Describe how a model is served, in the terms of config.pbtxt."""

        def write(answer: pb.ModelConfigResponse) -> Response:
            return JSONResponse(plain(answer.config))

        message = pb.ModelConfigRequest(**_which(request))
        return await self.ask(request, "ModelConfig", message, write)

    async def statistics(self, request: Request) -> Response:
        """Return what loaded versions computed, and how long the stages took."""
        message = pb.ModelStatisticsRequest(**_which(request))
        return await self.ask(request, "ModelStatistics", message)

    async def infer(self, request: Request) -> Response:
        """Compute an answer, tensors in JSON or binary."""
        binary = False

        async def read() -> pb.ModelInferRequest:
            nonlocal binary
            body = await self._bodies.read(request)
            length, path = request.headers.get(LENGTH_HEADER), request.path_params
            found = await made_of(
                body, lambda: InferRequest(body, length, path["model"], path.get("version", ""))
            )
            binary = found.binary
            return found.message

        return await self._calls.answer(
            request,
            f"/{INFERENCE}/ModelInfer",
            read,
            self._inference.ModelInfer,
            lambda answer: infer_response(answer, binary=binary),
        )

    async def index(self, request: Request) -> Response:
        """List the models of the repository."""

        async def read() -> pb.RepositoryIndexRequest:
            given = parse(await self._bodies.read(request))
            return pb.RepositoryIndexRequest(ready=given.get("ready") is True)

        return await self.ask(
            request, "RepositoryIndex", read, lambda answer: JSONResponse(plain(answer)["models"])
        )

    async def load(self, request: Request) -> Response:
        """Load the version that the repository says is to serve."""

        async def read() -> pb.RepositoryModelLoadRequest:
            given = parse(await self._bodies.read(request))
            if given.get("parameters"):
                raise InvalidArgumentError(
                    "parameters: none is taken; what a model is stands in the repository"
                )
            return pb.RepositoryModelLoadRequest(model_name=request.path_params["model"])

        return await self.ask(request, "RepositoryModelLoad", read, _empty)

    async def unload(self, request: Request) -> Response:
        """Stop serving a model until it is loaded again."""

        async def read() -> pb.RepositoryModelUnloadRequest:
            await self._bodies.read(request)
            return pb.RepositoryModelUnloadRequest(model_name=request.path_params["model"])

        return await self.ask(request, "RepositoryModelUnload", read, _empty)

    async def ask(
        self,
        request: Request,
        method: str,
        message: Any,
        write: Callable[[Any], Response] = lambda answer: JSONResponse(plain(answer)),
    ) -> Response:
        """Call a method of the Open Inference Protocol; `message` is it, or reads it."""
        read = message if callable(message) else _given(message)
        return await self._calls.answer(
            request, f"/{INFERENCE}/{method}", read, getattr(self._inference, method), write
        )


def _given(message: Any) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        return message

    return read


def _served(answer: pb.RepositoryIndexResponse) -> Response:
    return JSONResponse(
        {"models": [{"name": each.name, "version": each.version} for each in answer.models]}
    )


def _empty(answer: Any) -> Response:  # noqa: ARG001
    return Response(b"", media_type="application/json")


def _which(request: Request) -> dict[str, str]:
    return {
        "name": request.path_params.get("model", ""),
        "version": request.path_params.get("version", ""),
    }


def _version(request: Request) -> int:
    given = request.query_params.get("version", "0")
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise InvalidArgumentError(f"version: {given!r} is no number")
    return int(given)
