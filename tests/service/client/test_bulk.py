"""Many photos at once: their order, a bounded window, and a server that restarts meanwhile."""

import asyncio

import pytest

from service.client.client import AsyncClassifier, Classifier, Result
from service.errors import (
    NotFoundError,
)


def bulk_of(classifier, images, **options) -> list:
    """Return the results of a bulk."""
    return list(classifier.bulk(images, **options))


async def asyncio_bulk_of(port, images, **options) -> list:
    """Return the results of a bulk of the asyncio client."""
    async with AsyncClassifier(f"127.0.0.1:{port}") as classifier:
        return [each async for each in classifier.bulk(images, **options)]


async def test_bulk_keeps_the_order_and_the_places(publish, serve, photo):
    """Hundreds of photos, bad ones and such that were never read, by either client."""
    publish("food")
    server = await serve()
    colours = ["red", "green", "blue"] * 100
    images: list = [photo(each) for each in colours]
    images[7], images[8], images[299] = b"junk", Result(error="lost"), Result(error="lost too")

    def threaded() -> list:
        with Classifier(f"127.0.0.1:{server.port}") as classifier:
            return bulk_of(classifier, iter(images), top_k=1)

    for results in (
        await asyncio.to_thread(threaded),
        await asyncio_bulk_of(server.port, images, top_k=1),
    ):
        assert 300 == len(results)
        assert "not read here" in results[7].error
        assert ("lost", "lost too") == (results[8].error, results[299].error)
        for at, (colour, result) in enumerate(zip(colours, results, strict=True)):
            if at not in (7, 8, 299):
                assert (colour, 1) == (result.classes[0].label, result.model_version)


async def test_bulk_of_nothing_is_nothing(publish, serve):
    """No photo, or none that could be read: no request is made up for them."""
    publish("food")
    server = await serve()
    with Classifier(f"127.0.0.1:{server.port}") as classifier:
        for images in ([], [Result(error="lost")] * 3):
            assert images == await asyncio.to_thread(bulk_of, classifier, images)
            assert images == await asyncio_bulk_of(server.port, images)


async def test_bulk_reads_no_further_than_its_window(publish, serve, photo):
    """Thousands of photos are never in memory together: 8 requests of 16 at most."""
    publish("food")
    server = await serve()
    read = 0

    def source():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield photo("red")

    with Classifier(f"127.0.0.1:{server.port}") as classifier:
        answers = classifier.bulk(source())
        for answered in range(1, 200):
            await asyncio.to_thread(next, answers)
            assert read <= answered + 9 * 16
        answers.close()


async def test_bulk_raises_what_reading_raised(publish, serve, photo):
    """An error in the caller's own iterable reaches the caller, from either client."""
    publish("food")
    server = await serve()

    def source():
        yield from [photo("red")] * 20
        raise RuntimeError("disk on fire")

    with (
        Classifier(f"127.0.0.1:{server.port}") as classifier,
        pytest.raises(RuntimeError, match="on fire"),
    ):
        await asyncio.to_thread(bulk_of, classifier, source())
    with pytest.raises(RuntimeError, match="on fire"):
        await asyncio_bulk_of(server.port, source())


async def test_bulk_refused_is_an_error(publish, serve, photo):
    """A model that is not there ends a bulk with what the service says."""
    publish("food")
    server = await serve()
    with (
        Classifier(f"127.0.0.1:{server.port}") as classifier,
        pytest.raises(NotFoundError, match="there is food"),
    ):
        await asyncio.to_thread(bulk_of, classifier, [photo("red")], model="wine")
    with pytest.raises(NotFoundError, match="there is food"):
        await asyncio_bulk_of(server.port, [photo("red")], model="wine")


@pytest.mark.parametrize("client", ["sync", "asyncio"])
async def test_bulk_goes_on_after_a_restart(publish, process, photo, client):
    """The server is killed and started again in mid-stream: every photo is answered once."""
    publish("food", loops=2_000)
    server = process(max_batch=1)
    colours = ["red", "green", "blue"] * 150
    results = []
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(result) -> None:
        results.append(result)
        if len(results) == 60:
            loop.call_soon_threadsafe(seen.set)

    def threaded() -> None:
        with Classifier(f"127.0.0.1:{server.port}", retries=20) as classifier:
            for result in classifier.bulk(map(photo, colours), top_k=1):
                take(result)

    async def single() -> None:
        async with AsyncClassifier(f"127.0.0.1:{server.port}", retries=20) as classifier:
            async for result in classifier.bulk(map(photo, colours), top_k=1):
                take(result)

    work = asyncio.ensure_future(asyncio.to_thread(threaded) if client == "sync" else single())
    await asyncio.wait({work, asyncio.ensure_future(seen.wait())}, return_when="FIRST_COMPLETED")
    server.kill()
    server.wait()
    await asyncio.to_thread(process, max_batch=1, port=server.port)
    await work
    assert colours == [result.classes[0].label for result in results]
