"""The client for asyncio. `service.client.client` has the same one for threads."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Self

import grpc

from service.client.bulk import WINDOW, Backlog, RequestOptions
from service.client.wire import (
    Connection,
    ModelInfo,
    Result,
    chunks,
    merged,
    read_model,
    read_results,
    sendable,
)
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc


class AsyncClassifier:
    """A connection to a server, for asyncio. Belongs to one event loop."""

    def __init__(self, address: str, **settings: Any) -> None:
        """Prepare the connection, which opens at the first call.

        The settings are those of `Classifier`.

        Raises:
            InvalidArgumentError: The address has no port, or a file cannot be read.
        """
        self.address = address
        self._wire = Connection(address=address, **settings)
        credentials, options = self._wire.credentials(), self._wire.options()
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(address, options)
        )
        self._stub = pb_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    async def classify(
        self, images: Sequence[bytes], top_k: int = 5, *, model: str = "", version: int = 0
    ) -> list[Result]:
        """Classify encoded photos; see `Classifier.classify`.

        Raises:
            ServiceError: A call failed as a whole; its class tells the gRPC code.
        """
        answers: list[Result] = []
        entries = [sendable(image) for image in images]
        for chunk in chunks([entry for entry in entries if isinstance(entry, bytes)]):
            request = pb.ClassifyRequest(
                images=chunk, top_k=top_k, model=model, model_version=version
            )
            answers += read_results(await self._call(self._stub.Classify, request), self.address)
        return merged(entries, answers)

    async def bulk(
        self,
        images: Iterable[bytes | Result] | AsyncIterable[bytes | Result],
        top_k: int = 5,
        *,
        model: str = "",
        version: int = 0,
    ) -> AsyncIterator[Result]:
        """Classify any number of photos over one stream; see `Classifier.bulk`.

        Raises:
            ServiceError: The server refuses, or stays unavailable.
            Exception: Whatever reading `images` raised.
        """
        backlog = Backlog(RequestOptions(top_k=top_k, model=model, version=version))
        source = _each(images)
        tail: list[Result] = []
        attempt = 0
        while not backlog.done:
            call = self._stub.ClassifyStream(metadata=self._wire.metadata)
            number = backlog.first
            try:
                while True:
                    # One task both sends and reads, so the window needs no lock.
                    while number - backlog.first < WINDOW:
                        while backlog.request(number) is None and not backlog.ended:
                            try:
                                backlog.add(await anext(source))
                            except StopAsyncIteration:
                                tail = backlog.end()
                        request = backlog.request(number)
                        if request is None:
                            break
                        await call.write(request)
                        number += 1
                    if backlog.done:
                        break
                    response = await asyncio.wait_for(call.read(), self._wire.timeout_s)
                    if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                        break
                    attempt = 0
                    for result in backlog.answer(read_results(response, self.address)):
                        yield result
                if not backlog.done:
                    raise await _end(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as caught:
                # gRPC raises InvalidStateError on writing into a stream that has ended.
                error = (
                    await _end(call) if isinstance(caught, asyncio.InvalidStateError) else caught
                )
                pause_s = self._wire.pause_s(error, attempt, float("inf"))
                if pause_s is None:
                    raise self._wire.error(error) from error
                attempt += 1
                await asyncio.sleep(pause_s)
            finally:
                call.cancel()
        for result in tail:
            yield result

    async def model(self, name: str = "", version: int = 0) -> ModelInfo:
        """Describe a version of a model; see `Classifier.model`.

        Raises:
            ServiceError: The call failed; its class tells the gRPC code.
        """
        request = pb.GetModelRequest(model=name, version=version)
        return read_model(await self._call(self._stub.GetModel, request))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        ends_s = monotonic() + self._wire.timeout_s
        attempt = 0
        while True:
            try:
                return await method(
                    request, timeout=ends_s - monotonic(), metadata=self._wire.metadata
                )
            except grpc.aio.AioRpcError as error:
                pause_s = self._wire.pause_s(error, attempt, ends_s)
                if pause_s is None:
                    raise self._wire.error(error) from error
            attempt += 1
            await asyncio.sleep(pause_s)


async def _end(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that a stream ended with."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
        None,
    )


async def _each(
    images: Iterable[bytes | Result] | AsyncIterable[bytes | Result],
) -> AsyncIterator[bytes | Result]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
