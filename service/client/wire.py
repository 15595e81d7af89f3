"""What both clients share: settings of the connection, retries, and reading of messages.

A call is repeated only if the server has not begun it: it failed with UNAVAILABLE, or with
RESOURCE_EXHAUSTED and RetryInfo. The pause doubles each time, unless RetryInfo names one.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from service.config import MAX_IMAGES_PER_CALL
from service.errors import (
    DeadlineError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from service.pb import classifier_pb2 as pb

MAX_CALL_BYTES = 15 * 2**20
"""Most bytes of images in one request, within the 16 MiB that a server reads by default. A larger
image is not sent, and its result is an error."""

_MAX_MESSAGE_BYTES = 64 * 2**20
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_ERRORS: dict[grpc.StatusCode, type[ServiceError]] = {
    error.code: error
    for error in (
        InvalidArgumentError, NotFoundError, OverloadedError, UnavailableError, DeadlineError,
        UnauthenticatedError, ForbiddenError,
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
    """The result of one image: either classes, the most probable first, or an error."""

    classes: tuple[Class, ...] = ()
    error: str | None = None
    code: grpc.StatusCode | None = None
    """The gRPC code of the error; INVALID_ARGUMENT: this image is not accepted."""
    model: str = ""
    model_version: int = 0
    """The version that answered; 0 if the image was not sent."""
    below_threshold: bool = False
    """Whether the likeliest class is less probable than the model's threshold: 'not sure'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A loaded version of a model."""

    name: str
    version: int
    labels: tuple[str, ...]
    image_size: int
    provider: str
    val_top1: float | None
    min_confidence: float | None = None
    """The threshold: less probable answers count as not sure. None: the model has none."""


_ROUND_ROBIN = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "hansang.v1.Classifier"},
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """How to reach a server.

    Raises:
        InvalidArgumentError: The address has no port, or a file cannot be read.
    """

    address: str
    """`host:port`. Several servers are `ipv4:host:port,host:port`, or `dns:///name:port` for every
    address of a name: calls go to each in turn, and to none whose health is not SERVING."""
    timeout_s: float = 30.0
    """How long a call may take, retries included."""
    retries: int = 4
    """How often a call is tried again. 0: never."""
    token: str = ""
    tls: bool = False
    """Use TLS, with the authorities that the system trusts. `ca` implies it."""
    ca: Path | None = None
    """The authority that signed the server's certificate, PEM."""
    certificate: Path | None = None
    """For mTLS: this client's certificate, PEM."""
    key: Path | None = None
    """For mTLS: its private key, PEM."""

    def __post_init__(self) -> None:
        if re.match(r"[a-z+]+://", self.address) and not self.address.startswith("dns://"):
            raise InvalidArgumentError(
                f"the address {self.address!r} is a URL; gRPC wants it like localhost:8500"
            )
        if self.address.endswith("/"):
            raise InvalidArgumentError(
                f"the address {self.address!r} ends with a slash; write it like localhost:8500"
            )
        # gRPC would take port 443.
        if ":" not in self.address:
            raise InvalidArgumentError(
                f"the address {self.address!r} has no port; write it like localhost:8500"
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that is sent with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def options(self) -> list[tuple[str, Any]]:
        """Return the options of the gRPC channel."""
        several = "," in self.address or self.address.startswith("dns:")
        return [
            *([("grpc.service_config", _ROUND_ROBIN)] if several else []),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # gRPC would send even calls to localhost through $http_proxy.
            ("grpc.enable_http_proxy", 0),
            # `pause_s` decides on retries, because gRPC ignores RetryInfo.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", int(1000 * _FIRST_PAUSE_S)),
            # Despite its name, this is the time-out of one attempt to connect, handshake included.
            ("grpc.min_reconnect_backoff_ms", int(1000 * _LONGEST_PAUSE_S)),
            ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_PAUSE_S)),
            # Notice a server that vanished without closing its connections.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials of the channel; None: no TLS."""
        if not (self.tls or self.ca or self.certificate):
            return None
        ca, key, certificate = map(_read, (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def pause_s(self, error: grpc.RpcError, attempt: int, ends_s: float) -> float | None:
        """Return how long to wait before repeating a call; None: do not repeat it.

        Args:
            error: Why it failed.
            attempt: How often it was repeated already.
            ends_s: When its time is over (`time.monotonic`).
        """
        asked_s, code = retry_info_s(error), error.code()
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and asked_s is not None
        if not (refused or code is grpc.StatusCode.UNAVAILABLE) or attempt >= self.retries:
            return None
        # Randomized, so that the clients of a restarted server do not all return at once.
        pause_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1)
        if asked_s is not None:
            pause_s = max(asked_s, _FIRST_PAUSE_S / 2)
        return pause_s if monotonic() + pause_s < ends_s else None

    def _unreachable(self, details: str) -> str:
        """Return why no connection came about, with gRPC's own words at the end."""
        for sign, sentence in _UNREACHABLE:
            if sign in details:
                return f"{self.address}: {sentence} ({details})"
        return f"{self.address}: no connection ({details})"

    def error(self, error: grpc.RpcError) -> ServiceError:
        """Return the `ServiceError` for a gRPC error."""
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in str(details).lower():
            return UnavailableError(self._unreachable(str(details)))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"no answer from {self.address} within {self.timeout_s:g} s")
        found = _ERRORS.get(code, ServiceError)(f"{self.address}: {details} ({code.name})")
        found.retry_after_s = retry_info_s(error)
        return found


_UNREACHABLE = (
    ("certificate has expired", "the server's certificate has expired; renew it there"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not signed by the trusted authority;"
     " name the right one with --ca"),
    ("Hostname Verification Check failed", "the server's certificate is for another name;"
     " use that one"),
    ("Socket closed", "the server ended the connection at once; it may want TLS: name its authority"
     " with --ca"),
    ("WRONG_VERSION_NUMBER", "the server speaks no TLS; leave the TLS options out"),
    ("Connection refused", "no service answers; start one with: hansang serve"),
)  # fmt: skip
"""What gRPC's text has → what it means, and what to do."""


def retry_info_s(error: grpc.RpcError) -> float | None:
    """Return the pause that the server's RetryInfo asks for, in seconds; None if there is none."""
    metadata: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None


def read_results(response: pb.ClassifyResponse, address: str) -> list[Result]:
    """Return the results of a response.

    Raises:
        ServiceError: The response says that a request of a stream failed.
    """
    if response.HasField("error"):
        kind = _ERRORS.get(_CODES[response.error.code], ServiceError)
        raise kind(f"{address}: {response.error.message}")
    return [
        Result(
            classes=tuple(Class(c.label, c.probability) for c in result.classes),
            error=result.error.message if result.HasField("error") else None,
            code=_CODES.get(result.error.code) if result.HasField("error") else None,
            model=response.model,
            model_version=response.model_version,
            below_threshold=result.below_threshold,
        )
        for result in response.results
    ]


def read_model(found: pb.Model) -> ModelInfo:
    """Return a model's description as the clients give it."""
    return ModelInfo(
        name=found.name,
        version=found.version,
        labels=tuple(found.labels),
        image_size=found.image_size_px,
        provider=found.provider,
        val_top1=found.val_top1 if found.HasField("val_top1") else None,
        min_confidence=found.min_confidence if found.HasField("min_confidence") else None,
    )


def sendable(image: bytes) -> Result | bytes:
    """Return the image, or the error of one that no message holds."""
    if len(image) <= MAX_CALL_BYTES:
        return image
    return Result(
        error=f"the image has {len(image)} bytes; at most {MAX_CALL_BYTES} are sent: shrink it",
        code=InvalidArgumentError.code,
    )


def merged(entries: Sequence[bytes | Result], answers: Sequence[Result]) -> list[Result]:
    """Return the entries with each image that was sent replaced by its answer, in order."""
    rest = iter(answers)
    return [entry if isinstance(entry, Result) else next(rest) for entry in entries]


def chunks(images: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the images in parts that one call may have, by number and by bytes."""
    chunk: list[bytes] = []
    num_bytes = 0
    for image in images:
        full = len(chunk) == MAX_IMAGES_PER_CALL or num_bytes + len(image) > MAX_CALL_BYTES
        if chunk and full:
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(image)
        num_bytes += len(image)
    if chunk:
        yield chunk


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from error
