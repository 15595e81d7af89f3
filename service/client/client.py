"""Clients for callers in Python: photos in, labels out.

>>> with Classifier("localhost:8500") as classifier:
...     results = classifier.classify([photo_bytes])

`classify` is for a few photos that somebody waits for. `bulk` is for thousands: a long-lived
stream, in which the server sets the pace; nothing is refused for want of room. `AsyncClassifier` is
the same for asyncio.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Self

import grpc

from service.client.aio_client import AsyncClassifier
from service.client.bulk import Backlog, Feed, Wish
from service.client.wire import (
    Class,
    Connection,
    ModelInfo,
    Result,
    chunks,
    merged,
    read_model,
    read_results,
    sendable,
)
from service.errors import UnavailableError
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc

__all__ = ["AsyncClassifier", "Class", "Classifier", "ModelInfo", "Result"]


class Classifier:
    """A connection to a service. May be used by several threads."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 30,
        retries: int = 4,
        token: str = "",
        tls: bool = False,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            address: `host:port`.
            timeout_s: How long a call may take, retries included; more than 64 images are several
                calls.
            retries: How often a call is tried again where the service is UNAVAILABLE.
            token: Sent as bearer token.
            tls: TLS with the authorities of the system; `ca` implies it.
            ca: File of the authority that signed the server's certificate, PEM.
            certificate: For mTLS, file of the client's certificate, PEM.
            key: For mTLS, file of its private key, PEM.

        Raises:
            InvalidArgumentError: The address has no port, or a file cannot be read.
        """
        self.address = address
        self._wire = Connection(
            address=address, timeout_s=timeout_s, retries=retries, token=token, tls=tls, ca=ca,
            certificate=certificate, key=key,
        )  # fmt: skip
        credentials, options = self._wire.credentials(), self._wire.options()
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._stub = pb_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    def classify(
        self, images: Sequence[bytes], top_k: int = 5, *, model: str = "", version: int = 0
    ) -> list[Result]:
        """Classify encoded photos, however many; results are in their order.

        Args:
            images: JPEG, PNG or WebP.
            top_k: Classes per photo.
            model: Its name; empty for the only one.
            version: Its version; 0 for the one that serves.

        Raises:
            ServiceError: A call failed as a whole; its class says how.
        """
        answers: list[Result] = []
        # One image that no message holds must not fail its neighbours' call.
        places = [sendable(image) for image in images]
        for chunk in chunks([place for place in places if isinstance(place, bytes)]):
            request = pb.ClassifyRequest(
                images=chunk, top_k=top_k, model=model, model_version=version
            )
            answers += read_results(self._call(self._stub.Classify, request), self.address)
        return merged(places, answers)

    def bulk(
        self,
        images: Iterable[bytes | Result],
        top_k: int = 5,
        *,
        model: str = "",
        version: int = 0,
    ) -> Iterator[Result]:
        """Classify any number of photos over one stream; yield results in their order.

        At most 128 photos are under way at a time. A stream that breaks is begun again where it
        broke, `retries` times in a row at most.

        Args:
            images: Read as they are wanted, from a thread of gRPC's. A `Result` among them keeps
                its place in the answers; nothing is sent for it.
            top_k: As in `classify`.
            model: As in `classify`.
            version: As in `classify`.

        Raises:
            ServiceError: The service refuses, or stays unavailable.
            Exception: Whatever reading `images` raised.
        """
        feed = Feed(iter(images), Backlog(Wish(top_k=top_k, model=model, version=version)))
        attempt = 0
        while not feed.done():
            sending = feed.requests()
            call = self._stub.ClassifyStream(sending, metadata=self._wire.metadata)
            try:
                for response in call:
                    attempt = 0
                    yield from feed.answer(read_results(response, self.address))
            except grpc.RpcError as error:
                feed.check()
                pause_s = self._wire.pause_s(error, attempt, float("inf"))
                if pause_s is None:
                    raise self._wire.error(error) from error
                attempt += 1
                time.sleep(pause_s)
            else:
                feed.check()
                if not feed.done():
                    raise UnavailableError(f"{self.address}: the stream ended too early")
            finally:
                feed.stop()
                call.cancel()
        yield from feed.tail

    def model(self, name: str = "", version: int = 0) -> ModelInfo:
        """Describe a version of a model that is loaded.

        Raises:
            ServiceError: The call failed; its class says how.
        """
        return read_model(
            self._call(self._stub.GetModel, pb.GetModelRequest(model=name, version=version))
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        ends_s = monotonic() + self._wire.timeout_s
        attempt = 0
        while True:
            try:
                return method(request, timeout=ends_s - monotonic(), metadata=self._wire.metadata)
            except grpc.RpcError as error:
                pause_s = self._wire.pause_s(error, attempt, ends_s)
                if pause_s is None:
                    raise self._wire.error(error) from error
            attempt += 1
            time.sleep(pause_s)
