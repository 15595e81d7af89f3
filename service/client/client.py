"""Clients for callers in Python: photos in, labels out.

>>> with Classifier("localhost:8500") as classifier:
...     results = classifier.classify([photo_bytes])

`classify` is for a few photos that someone waits for. `bulk` is for thousands: on its long-lived
stream the server slows the client down instead of refusing. `AsyncClassifier` does the same for
asyncio.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Self

import grpc

from service.client.aio_client import AsyncClassifier
from service.client.bulk import Backlog, RequestOptions, SharedBacklog
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
    """A connection to a server. Several threads may use it."""

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
        """Prepare the connection, which opens at the first call.

        Args:
            address: `host:port`.
            timeout_s: How long one call may take, retries included. Each 64 images are one call.
            retries: How often a call is repeated while the server is UNAVAILABLE.
            token: Bearer token, sent with each call.
            tls: Use TLS, with the authorities that the system trusts; `ca` implies it.
            ca: PEM file of the authority that signed the server's certificate.
            certificate: For mTLS, PEM file of this client's certificate.
            key: For mTLS, PEM file of its private key.

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
        """Classify any number of encoded photos; return their results in the same order.

        Args:
            images: JPEG, PNG or WebP files.
            top_k: Classes per photo.
            model: Name of the model; empty for the only one.
            version: Version of the model; 0 for the one that serves.

        Raises:
            ServiceError: A call failed as a whole; its class tells the gRPC code.
        """
        answers: list[Result] = []
        # An image that is too large for a message must not fail the others' call.
        entries = [sendable(image) for image in images]
        for chunk in chunks([entry for entry in entries if isinstance(entry, bytes)]):
            request = pb.ClassifyRequest(
                images=chunk, top_k=top_k, model=model, model_version=version
            )
            answers += read_results(self._call(self._stub.Classify, request), self.address)
        return merged(entries, answers)

    def bulk(
        self,
        images: Iterable[bytes | Result],
        top_k: int = 5,
        *,
        model: str = "",
        version: int = 0,
    ) -> Iterator[Result]:
        """Classify any number of photos over one stream; yield results in their order.

        At most 128 photos are sent and unanswered at a time. When a stream breaks, a new one goes
        on where it broke, at most `retries` times in a row.

        Args:
            images: Read as they are needed, in a thread of gRPC's. A `Result` among them is not
                sent, and is yielded at its position.
            top_k: As in `classify`.
            model: As in `classify`.
            version: As in `classify`.

        Raises:
            ServiceError: The server refuses, or stays unavailable.
            Exception: Whatever reading `images` raised.
        """
        options = RequestOptions(top_k=top_k, model=model, version=version)
        backlog = SharedBacklog(iter(images), Backlog(options))
        attempt = 0
        while not backlog.done():
            sending = backlog.requests()
            call = self._stub.ClassifyStream(sending, metadata=self._wire.metadata)
            try:
                for response in call:
                    attempt = 0
                    yield from backlog.answer(read_results(response, self.address))
            except grpc.RpcError as error:
                backlog.check()
                pause_s = self._wire.pause_s(error, attempt, float("inf"))
                if pause_s is None:
                    raise self._wire.error(error) from error
                attempt += 1
                time.sleep(pause_s)
            else:
                backlog.check()
                if not backlog.done():
                    raise UnavailableError(f"{self.address}: the stream ended too early")
            finally:
                backlog.stop()
                call.cancel()
        yield from backlog.tail

    def model(self, name: str = "", version: int = 0) -> ModelInfo:
        """Describe a loaded version of a model.

        Raises:
            ServiceError: The call failed; its class tells the gRPC code.
        """
        return read_model(
            self._call(self._stub.GetModel, pb.GetModelRequest(model=name, version=version))
        )

    def close(self) -> None:
        """Close the connection."""
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
