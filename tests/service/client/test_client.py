"""The Python client against a real server: order, chunks, bad photos, and errors that help."""

import asyncio
import socket

import grpc
import pytest

from service.client.client import Class, Classifier
from service.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)


async def test_photos_are_answered_in_their_order(client, photo):
    """Each photo gets its own result, the likeliest class first."""
    classifier = await client()
    colours = ["blue", "red", "green"]
    results = await asyncio.to_thread(classifier.classify, [photo(each) for each in colours])
    assert colours == [result.classes[0].label for result in results]
    for result in results:
        assert ("food", 1) == (result.model, result.model_version)
        assert (None, None) == (result.error, result.code)
        assert all(isinstance(found, Class) for found in result.classes)
        probabilities = [found.probability for found in result.classes]
        assert sorted(probabilities, reverse=True) == probabilities
        assert 1 == pytest.approx(sum(probabilities), abs=1e-5)


async def test_top_k_bounds_the_classes(client, photo):
    """Only so many classes come back."""
    classifier = await client()
    (result,) = await asyncio.to_thread(classifier.classify, [photo("red")], top_k=1)
    assert ["red"] == [found.label for found in result.classes]


async def test_many_photos_are_several_calls(client, photo):
    """More than a call takes are cut, by number and by bytes; the order stays."""
    classifier = await client()
    # 50 photos of 1 MiB are more bytes than one call carries, and 150 are more than 64.
    padded = {each: photo(each).ljust(2**20, b"\0") for each in ("red", "blue")}
    for colours, images in (
        (["red", "green", "blue"] * 50, None),
        (["red", "blue"] * 25, padded),
    ):
        sent = [images[each] if images else photo(each) for each in colours]
        results = await asyncio.to_thread(classifier.classify, sent, top_k=1)
        assert colours == [result.classes[0].label for result in results]


async def test_no_photos_is_no_call():
    """Nothing asked, nothing answered, and no server is needed for it."""
    with Classifier("localhost:1") as classifier:
        assert [] == classifier.classify([])


async def test_bad_photo_spares_the_others(client, photo):
    """Junk, nothing, and bytes that no message holds each get an error of their own."""
    classifier = await client()
    images = [photo("red"), b"junk", b"", bytes(65 * 2**20), photo("blue")]
    results = await asyncio.to_thread(classifier.classify, images, top_k=1)
    assert ["red", "blue"] == [found.label for result in results for found in result.classes]
    assert [True, False, False, False, True] == [result.error is None for result in results]
    assert {grpc.StatusCode.INVALID_ARGUMENT} == {result.code for result in results[1:4]}
    assert "not read here" in results[1].error
    assert "68157440 bytes" in results[3].error


async def test_model_is_described(client):
    """`model()` tells what the file says of itself."""
    classifier = await client(build={"labels": ("김밥", "냉면", "blue"), "image_size": 16})
    info = await asyncio.to_thread(classifier.model)
    assert ("food", 1, 16) == (info.name, info.version, info.image_size)
    assert ("김밥", "냉면", "blue") == info.labels
    assert 0.75 == info.val_top1
    assert "CPUExecutionProvider" == info.provider


async def test_wrong_requests_are_the_services_errors(client, photo):
    """An error of a whole call arrives as the class that the service raised."""
    classifier = await client()
    with pytest.raises(NotFoundError, match=r"'drink'.*there is food"):
        await asyncio.to_thread(classifier.model, "drink")
    with pytest.raises(InvalidArgumentError, match="top_k"):
        await asyncio.to_thread(classifier.classify, [photo("red")], top_k=-1)


async def test_overload_is_told(client, photo):
    """Of two calls for a queue that holds one, one is answered, and one is an OverloadedError."""
    classifier = await client(build={"loops": 3_000}, max_batch=1, queue_size=64, retries=0)
    calls = [asyncio.to_thread(classifier.classify, [photo("red")] * 64) for _ in range(2)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {list, OverloadedError} == {type(outcome) for outcome in outcomes}


async def test_slow_answer_is_a_deadline_error(client, photo):
    """`timeout_s` bounds a call, and the error says for how long it waited."""
    classifier = await client(build={"loops": 100_000}, timeout_s=0.05, drain_s=0)
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        await asyncio.to_thread(classifier.classify, [photo("red")])


def test_no_service_says_how_to_start_one(photo, monkeypatch):
    """Nothing listens: the sentence names the address and the command. A proxy is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Classifier(address) as classifier,
            pytest.raises(UnavailableError, match=rf"{address}.*hansang serve"),
        ):
            classifier.classify([photo("red")])


def test_address_needs_a_port():
    """Without a port gRPC would call 443 and wait: the mistake is told at once."""
    with pytest.raises(InvalidArgumentError, match="localhost:8500"):
        Classifier("localhost")
