"""A client for callers in Python: photos in, labels out.

>>> with Classifier("localhost:8500") as classifier:
...     results = classifier.classify([photo_bytes])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from service.config import MAX_IMAGES_PER_CALL
from service.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc

_MAX_CALL_BYTES = 48 * 2**20
_MAX_MESSAGE_BYTES = 64 * 2**20
_ERRORS: dict[grpc.StatusCode, type[ServiceError]] = {
    error.code: error
    for error in (
        InvalidArgumentError, NotFoundError, OverloadedError, UnavailableError, DeadlineError,
    )
}  # fmt: skip
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Class:
    """One class and how likely it is."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one image: either classes, the likeliest first, or an error."""

    classes: tuple[Class, ...] = ()
    error: str | None = None
    code: grpc.StatusCode | None = None
    """What kind of error it is; INVALID_ARGUMENT is a picture that is not accepted."""
    model: str = ""
    model_version: int = 0
    """The version that answered; 0 where the image was too large to be sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What serves."""

    name: str
    version: int
    labels: tuple[str, ...]
    image_size: int
    provider: str
    val_top1: float | None


class Classifier:
    """A connection to a service. May be used by several threads."""

    def __init__(self, address: str, *, timeout_s: float = 30) -> None:
        """Connect at the first call.

        Args:
            address: `host:port`.
            timeout_s: How long a call may take; more than 64 images are several calls.

        Raises:
            InvalidArgumentError: The address has no port.
        """
        # gRPC would take port 443.
        if ":" not in address:
            raise InvalidArgumentError(
                f"the address {address!r} has no port; write it like localhost:8500"
            )
        self.address = address
        self._timeout_s = timeout_s
        limits = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # gRPC sends even localhost through $http_proxy, which cannot reach it.
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.insecure_channel(address, options=limits)
        self._stub = pb_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    def classify(self, images: Sequence[bytes], top_k: int = 5, *, model: str = "") -> list[Result]:
        """Classify encoded photos, however many; results are in their order.

        Raises:
            ServiceError: A call failed as a whole; its class says how.
        """
        answers: list[Result] = []
        # One image that no message holds must not fail its neighbours' call.
        for chunk in _chunks([image for image in images if len(image) <= _MAX_CALL_BYTES]):
            request = pb.ClassifyRequest(images=chunk, top_k=top_k, model=model)
            try:
                response = self._stub.Classify(request, timeout=self._timeout_s)
            except grpc.RpcError as error:
                raise self._error(error) from error
            answers += _results(response)
        rest = iter(answers)
        return [
            next(rest) if len(image) <= _MAX_CALL_BYTES else _too_large(image) for image in images
        ]

    def model(self, name: str = "") -> ModelInfo:
        """Describe what serves.

        Raises:
            ServiceError: The call failed; its class says how.
        """
        try:
            found = self._stub.GetModel(pb.GetModelRequest(model=name), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from error
        return ModelInfo(
            name=found.name,
            version=found.version,
            labels=tuple(found.labels),
            image_size=found.image_size_px,
            provider=found.provider,
            val_top1=found.val_top1 if found.HasField("val_top1") else None,
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _error(self, error: grpc.RpcError) -> ServiceError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in str(details).lower():
            return UnavailableError(
                f"no service answers at {self.address}; start one with: hansang serve"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"no answer from {self.address} within {self._timeout_s:g} s")
        return _ERRORS.get(code, ServiceError)(f"{self.address}: {details} ({code.name})")


def _results(response: pb.ClassifyResponse) -> list[Result]:
    return [
        Result(
            classes=tuple(Class(c.label, c.probability) for c in result.classes),
            error=result.error.message if result.HasField("error") else None,
            code=_CODES.get(result.error.code) if result.HasField("error") else None,
            model=response.model,
            model_version=response.model_version,
        )
        for result in response.results
    ]


def _too_large(image: bytes) -> Result:
    return Result(
        error=f"the image has {len(image)} bytes; at most {_MAX_CALL_BYTES} are sent",
        code=InvalidArgumentError.code,
    )


def _chunks(images: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Cut into calls that the service accepts, by number and by bytes."""
    chunk: list[bytes] = []
    num_bytes = 0
    for image in images:
        full = len(chunk) == MAX_IMAGES_PER_CALL or num_bytes + len(image) > _MAX_CALL_BYTES
        if chunk and full:
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(image)
        num_bytes += len(image)
    if chunk:
        yield chunk
