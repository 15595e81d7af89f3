"""What answers calls: one interceptor and two servicers, which the gRPC and HTTP ports share."""

import asyncio
from dataclasses import dataclass
from typing import Self

from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2_grpc

from service.api.auth import Tokens
from service.api.classifier import ClassifierServicer
from service.api.inference import Inference
from service.api.interceptors import CallInterceptor
from service.api.open_inference import Control, OpenInferenceServicer
from service.config import ServerConfig
from service.models.pool import ModelPool
from service.observability.metrics import Metrics
from service.observability.tracing import Tracing
from service.pb import classifier_pb2, inference_pb2
from service.pb import classifier_pb2_grpc as classifier_grpc
from service.pb import inference_pb2_grpc as inference_grpc
from service.server.health import Health
from service.server.methods import Methods
from service.server.reflection import add_reflection

CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
ALL = (CLASSIFIER, INFERENCE, grpc_health.SERVICE_NAME)


@dataclass(frozen=True, kw_only=True)
class Services:
    """The services of one server."""

    interceptor: CallInterceptor
    """Wraps every call."""
    classifier: ClassifierServicer
    open_inference: OpenInferenceServicer
    health: Health

    @classmethod
    def make(
        cls,
        config: ServerConfig,
        *,
        metrics: Metrics,
        tracing: Tracing,
        tokens: Tokens,
        models: ModelPool,
        inference: Inference,
        health: Health,
        stopping: asyncio.Event,
    ) -> Self:
        """Return services that answer with `inference` on `models`.

        Streams read no further request once `stopping` is set.
        """
        interceptor = CallInterceptor(
            metrics,
            tokens=tokens,
            tracing=tracing,
            budget=inference.budget,
            largest=config.max_message_bytes,
            max_streams=config.max_streams,
            admission_checks={
                f"/{CLASSIFIER}/Classify": models.refusal,
                f"/{INFERENCE}/ModelInfer": models.refusal,
            },
        )
        classifier = ClassifierServicer(
            models.find, inference, interceptor.timed(f"/{CLASSIFIER}/ClassifyStream"), stopping
        )
        control = Control(
            ready=lambda: health.serving,
            allowed=config.model_control,
            max_delay_ms=config.max_delay_ms,
        )
        timed = interceptor.timed(f"/{INFERENCE}/ModelStreamInfer")
        open_inference = OpenInferenceServicer(models, inference, timed, stopping, control)
        return cls(
            interceptor=interceptor,
            classifier=classifier,
            open_inference=open_inference,
            health=health,
        )

    def methods(self, *, reflection: bool) -> Methods:
        """Return the methods of these services, with reflection if it is wanted."""
        methods = Methods(self.interceptor.wrapped)
        classifier_grpc.add_ClassifierServicer_to_server(self.classifier, methods)  # type: ignore[no-untyped-call]
        inference_grpc.add_GRPCInferenceServiceServicer_to_server(self.open_inference, methods)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, methods)
        if reflection:
            add_reflection(methods, ALL)
        return methods

    def reflection(self) -> Methods:
        """Return the methods of reflection alone, which describe these services."""
        methods = Methods(self.interceptor.wrapped)
        add_reflection(methods, ALL)
        return methods
