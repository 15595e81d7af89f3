"""Swaps, overload and broken requests over HTTP: what gRPC promises there holds here."""

import asyncio
import contextlib
import json
import random
from collections import Counter

import pytest

from service.http import listener

CLASSIFY = "/v1/models/food:classify"


def request(body: bytes) -> bytes:
    """Return a call with this body."""
    head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer(reader) -> tuple[int, dict, dict]:
    """Return status, headers and body of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


async def calling(port, photo, until: asyncio.Event, found: Counter, headers_of: list) -> None:
    """Call over one kept connection until told to stop; count statuses and versions."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not until.is_set():
            writer.write(request(photo))
            status, headers, body = await answer(reader)
            found[status, body.get("modelVersion")] += 1
            if status != 200:
                headers_of.append(headers)
                await asyncio.sleep(0.02)
    finally:
        writer.close()


async def test_a_swap_fails_no_call(publish, serve, photo):
    """While versions are released under load, each call is answered by one or another of them."""
    publish("food")
    server = await serve(http_port=0)
    until, found = asyncio.Event(), Counter()
    callers = [
        asyncio.create_task(calling(server.http_port, photo("red"), until, found, []))
        for _ in range(8)
    ]
    for _ in range(3):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(publish, "food")
    for _ in range(200):
        if found[200, "4"] > 10:
            break
        await asyncio.sleep(0.05)
    until.set()
    await asyncio.gather(*callers)
    assert {200} == {status for status, _ in found}
    assert {"1", "4"} <= {version for _, version in found}


async def test_overload_is_refused_with_the_time_to_wait(publish, serve, photo):
    """With more callers than places some are answered, the others told when to come again."""
    publish("food", loops=20_000)
    server = await serve(http_port=0, queue_size=64, max_batch=4)
    until, found, refused = asyncio.Event(), Counter(), []
    callers = [
        asyncio.create_task(calling(server.http_port, photo("red"), until, found, refused))
        for _ in range(160)
    ]
    await asyncio.sleep(2)
    until.set()
    await asyncio.gather(*callers)
    statuses = Counter()
    for (status, _), count in found.items():
        statuses[status] += count
    assert {200, 429} == set(statuses), statuses
    assert all(int(headers["retry-after"]) >= 1 for headers in refused)


async def test_broken_requests_are_refused_and_nothing_else_happens(publish, serve, call, photo):
    """300 requests with bytes changed: each gets a status below 500, or no HTTP at all."""
    publish("food")
    server = await serve(http_port=0)
    dice = random.Random(5)
    whole = request(photo("red"))
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(dice.randint(1, 12)):
            # Mostly in the head, where a parser may be led astray.
            at = dice.randrange(120 if dice.random() < 0.7 else len(broken))
            if dice.random() < 0.5:
                broken[at] = dice.randrange(256)
            else:
                del broken[at]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        try:
            writer.write(bytes(broken))
            writer.write_eof()
            told = await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            told = b""
        finally:
            writer.close()
        assert told == b"" or told.split()[1] < b"500", (bytes(broken), told)
    assert 200 == (await call(server, "POST", CLASSIFY, photo("red"))).status
    assert 0 == server.metrics.admitted_images.value
    assert 0 == server.metrics.bytes_in_flight.value


@pytest.fixture
async def full(publish, serve):
    """Give a server whose places are all taken until `free()`."""
    publish("food")
    server = await serve(http_port=0, queue_size=64)
    held = contextlib.ExitStack()
    held.enter_context(server.models.find("food").batcher.admit(64))
    server.free = held.close
    yield server
    held.close()


async def test_a_refused_connection_is_kept(full, photo):
    """The body of a refused call comes afterwards, in pieces; the next call is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", full.http_port)
    whole = request(photo("red"))
    at = whole.index(b"\r\n\r\n") + 4
    writer.write(whole[:at])
    status, headers, body = await answer(reader)
    assert (429, "1", "RESOURCE_EXHAUSTED") == (status, headers["retry-after"], body["code"])
    assert "application/problem+json" == headers["content-type"]
    assert "close" != headers.get("connection")
    full.free()
    for piece in (whole[at : at + 100], whole[at + 100 :], whole):
        writer.write(piece)
        await asyncio.sleep(0.05)
    assert 200 == (await answer(reader))[0]
    writer.close()


async def test_refusals_that_end_the_connection(full):
    """HTTP/1.0 has one call a connection; who expects 100 may send no body."""
    for version, header in (("1.0", "Content-Length: 0"), ("1.1", "Expect: 100-continue")):
        reader, writer = await asyncio.open_connection("127.0.0.1", full.http_port)
        writer.write(f"POST {CLASSIFY} HTTP/{version}\r\nHost: x\r\n{header}\r\n\r\n".encode())
        status, headers, _ = await answer(reader)
        assert (429, "close") == (status, headers["connection"])
        assert b"" == await asyncio.wait_for(reader.read(), 3)
        writer.close()


async def test_who_sends_a_long_body_reads_why_it_was_refused(full, monkeypatch):
    """The rest of the body is dropped: were the connection closed at once, TCP would reset it."""
    monkeypatch.setattr(listener, "_REST_S", 1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", full.http_port)
    head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 999000000\r\n\r\n"
    writer.write(head.encode())
    for _ in range(12):  # as simple clients do, which read nothing before all is sent
        writer.write(bytes(1_000_000))
        await writer.drain()
        await asyncio.sleep(0.02)
    status, headers, _ = await answer(reader)
    assert (429, "close") == (status, headers["connection"])
    assert b"" == await asyncio.wait_for(reader.read(), 5)
    try:
        for _ in range(100):  # but not for ever
            writer.write(bytes(1000))
            await writer.drain()
            await asyncio.sleep(0.05)
    except ConnectionError:
        return
    pytest.fail("the connection is read for ever")


async def test_pages_of_an_allowed_site_are_refused_with_its_headers(publish, serve, call):
    """A page can only read a refusal that has the headers of CORS."""
    publish("food")
    server = await serve(http_port=0, queue_size=64, cors_origin=("https://shop.example",))
    with server.models.find("food").batcher.admit(64):
        refused = await call(server, "POST", CLASSIFY, b"x", {"origin": "https://shop.example"})
    assert 429 == refused.status
    assert "https://shop.example" == refused.headers["access-control-allow-origin"]


async def test_thousands_of_requests_at_once_are_refused_in_order(full, photo):
    """One piece of a connection holds calls, some of which a full server refuses at once."""
    count = 3000
    reader, writer = await asyncio.open_connection("127.0.0.1", full.http_port)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % CLASSIFY.encode()
    ready = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write((ready + head) * count)
    for _ in range(count):
        assert 200 == (await answer(reader))[0]
        assert 429 == (await answer(reader))[0]
    full.free()
    writer.write(request(photo("red")))
    assert 200 == (await answer(reader))[0]
    writer.close()
