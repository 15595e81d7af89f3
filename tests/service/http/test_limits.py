"""The HTTP port under trouble: limits, tokens, TLS, slow senders, drains, other sites' pages."""

import asyncio
import contextlib
import signal
import time

import pytest

from benchmarks.rig import free_port
from service.api.auth import entry, new_token
from service.errors import InvalidArgumentError, UnavailableError
from service.http import body as bodies
from service.http import listener
from tests.service.api.test_security import issue, needs_openssl
from tests.service.http.test_classify import form

CLASSIFY = "/v1/models/food:classify"


async def raw(server, *parts, pause_s=0.0):
    """Send bytes as they are, and return all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_a_body_that_says_it_is_too_long_is_not_read(publish, serve):
    """413 comes on the headers alone, and the connection ends."""
    publish("food")
    server = await serve(http_port=0, max_message_bytes=2**16)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    told = await raw(server, head % CLASSIFY.encode())
    assert told.startswith(b"HTTP/1.1 413")
    assert b"at most 65536 are accepted" in told


async def test_a_body_that_grows_too_long_is_cut_off(publish, serve):
    """Chunks say no length beforehand; they are counted."""
    publish("food")
    server = await serve(http_port=0, max_message_bytes=2**16)
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    told = await raw(
        server,
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % CLASSIFY.encode(),
        *[chunk] * 5,
    )
    assert told.startswith(b"HTTP/1.1 413")


async def test_compressed_bodies_are_refused(publish, serve, call):
    """A bomb of zeros is never unpacked."""
    publish("food")
    server = await serve(http_port=0)
    answer = await call(server, "POST", CLASSIFY, b"x", {"content-encoding": "gzip"})
    assert 415 == answer.status


@pytest.mark.parametrize("value", [b"0", b"[]", b"{}"])
async def test_json_of_too_many_values_is_refused(publish, serve, call, value):
    """Parsing 8 million values would hold up everybody for 200 ms; binary tensors do not."""
    publish("food")
    server = await serve(http_port=0)
    body = b'{"inputs": [' + b",".join([value] * 400_000) + b"]}"
    answer = await call(server, "POST", "/v2/models/food/infer", body)
    assert 400 == answer.status
    assert "at most 300000 are read: send the tensors binary" in answer.json["detail"]


async def test_a_broken_form_writes_nothing_into_the_log(publish, serve, call, caplog):
    """What anybody may send a million times is told to the caller alone."""
    publish("food")
    server = await serve(http_port=0)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = await call(server, "POST", CLASSIFY, b"no boundary at all", kind)
    assert 400 == answer.status
    assert "multipart" not in caplog.text


async def test_bodies_together_fit_the_budget(publish, serve, call, photo):
    """While one long body is on its way, another that does not fit beside it is told to wait."""
    publish("food")
    server = await serve(http_port=0, max_bytes_in_flight=2**16, max_message_bytes=2**17)
    _, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 65000\r\n\r\n" % CLASSIFY.encode()
    )
    await writer.drain()
    await asyncio.sleep(0.2)
    refused = await call(server, "POST", CLASSIFY, photo("red"), {})
    writer.close()
    assert 429 == refused.status
    assert "1" == refused.headers["retry-after"]
    for _ in range(50):
        if (await call(server, "POST", CLASSIFY, photo("red"))).status == 200:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the budget of a caller that went was not given back")


async def test_a_slow_body_is_cut_off(publish, serve, monkeypatch):
    """A sender slower than the least gets 408; one that is silent holds nothing for long."""
    publish("food")
    monkeypatch.setattr(bodies, "_GRACE_S", 0.3)
    server = await serve(http_port=0)
    started_s = time.monotonic()
    told = await raw(
        server, b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" % CLASSIFY.encode(),
        *[b"x"] * 3, pause_s=0.05,
    )  # fmt: skip
    assert told.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started_s < 3


@pytest.mark.parametrize("head", [b"", b"GET /v2 HTTP/1.1\r\nHost: x\r\n"])
async def test_a_slow_head_is_cut_off(publish, serve, monkeypatch, head):
    """A connection that says nothing, or half a head, is closed."""
    publish("food")
    monkeypatch.setattr(listener, "_HEAD_S", 0.2)
    server = await serve(http_port=0)
    started_s = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert b"" == await raw(server, head)
    assert time.monotonic() - started_s < 3


async def test_a_long_head_is_refused(publish, serve):
    """More than 16 kB of headers end the connection, before a route is looked for."""
    publish("food")
    server = await serve(http_port=0)
    told = await raw(
        server, b"GET /v2 HTTP/1.1\r\nHost: x\r\n", b"X: " + b"y" * 17_000 + b"\r\n\r\n"
    )
    assert told.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 999,
     b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
     b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"],
)  # fmt: skip
async def test_junk_hurts_nobody(publish, serve, call, photo, junk):
    """What is no HTTP is refused; the next caller is answered."""
    publish("food")
    server = await serve(http_port=0)
    assert (await raw(server, junk))[:12] in (b"HTTP/1.1 400", b"")
    assert 200 == (await call(server, "POST", CLASSIFY, photo("red"))).status


async def test_tokens_and_quotas_are_those_of_grpc(publish, serve, call, photo, tmp_path):
    """No token is 401 before the body; a quota that is used up is 429 with Retry-After."""
    publish("food")
    secret, digest = new_token()
    (tmp_path / "tokens.toml").write_text(entry("kiosk", digest, images_per_s=1))
    server = await serve(http_port=0, tokens=tmp_path / "tokens.toml")
    none = await call(server, "POST", CLASSIFY, photo("red"))
    assert (401, "Bearer") == (none.status, none.headers["www-authenticate"])
    assert 200 == (await call(server, "GET", "/v2/health/ready")).status

    bearer = {"authorization": f"Bearer {secret}"}
    answers = [await call(server, "POST", CLASSIFY, photo("red"), bearer) for _ in range(4)]
    assert 200 == answers[0].status
    late = answers[-1]
    assert (429, "RESOURCE_EXHAUSTED") == (late.status, late.json["code"])
    assert late.json["retryAfterS"] <= int(late.headers["retry-after"])
    assert "kiosk may have 1 images a second" in late.json["detail"]


async def test_a_full_server_refuses_before_the_body(publish, serve, call, photo):
    """Places are shared with gRPC: where none is left, 429 comes on the headers alone."""
    publish("food", loops=100_000)
    server = await serve(http_port=0, queue_size=64, max_batch=1)
    holding = asyncio.create_task(
        call(
            server,
            "POST",
            CLASSIFY,
            *form(*[photo("red")] * 64),
        )
    )
    for _ in range(100):
        if server.metrics.admitted_images.value == 64:
            break
        await asyncio.sleep(0.02)
    told = await raw(
        server,
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" % CLASSIFY.encode(),
    )
    assert told.startswith(b"HTTP/1.1 429")
    assert b"the server is full: 64 of 64" in told
    assert 200 == (await holding).status


async def test_metrics_and_deadlines_are_those_of_grpc(publish, serve, call, photo):
    """The same call counts by the same name; a deadline that cannot be kept is refused."""
    publish("food")
    server = await serve(http_port=0)
    await call(server, "POST", CLASSIFY, photo("red"))
    counted = server.metrics.request_seconds.labels("/hansang.v1.Classifier/Classify", "OK")
    assert 0 < counted._sum.get()
    late = await call(server, "POST", CLASSIFY, photo("red"), {"x-request-timeout-ms": "0"})
    assert late.status in (429, 504), late.body


async def test_another_sites_page_may_not_call(publish, serve, call, photo):
    """A strange origin is refused, the own is welcome, and a named one gets CORS's headers."""
    publish("food")
    server = await serve(http_port=0)
    own = f"http://127.0.0.1:{server.http_port}"
    assert 200 == (await call(server, "POST", CLASSIFY, photo("red"), {"origin": own})).status
    strange = await call(server, "POST", CLASSIFY, photo("red"), {"origin": "http://evil.example"})
    assert (403, None) == (strange.status, strange.headers.get("access-control-allow-origin"))
    preflight = await call(
        server, "OPTIONS", CLASSIFY, None,
        {"origin": "http://evil.example", "access-control-request-method": "POST"},
    )  # fmt: skip
    assert 403 == preflight.status

    other = await serve(http_port=0, cors_origin=["https://kitchen.example"])
    named = await call(other, "POST", CLASSIFY, photo("red"), {"origin": "https://kitchen.example"})
    assert "https://kitchen.example" == named.headers["access-control-allow-origin"]
    with pytest.raises(InvalidArgumentError, match="cors_origin"):
        await serve(http_port=0, cors_origin=["kitchen.example"])


async def test_a_taken_port_is_told(publish, serve, config):
    """The sentence names the port and the option; nothing is left running."""
    publish("food")
    server = await serve(http_port=0)
    with pytest.raises(UnavailableError) as caught:
        await serve(http_port=server.http_port)
    assert f"127.0.0.1:{server.http_port}" in str(caught.value)
    assert "--http-port" in str(caught.value)
    assert None is (await serve(http_port=None)).http_port


@needs_openssl
async def test_tls_and_mtls_follow_their_files(publish, serve, call, photo, trusting, tmp_path):
    """Certificates of gRPC hold for HTTP, also renewed ones; mTLS asks for the caller's."""
    publish("food")
    certificate, key = issue(tmp_path / "tls", "server")
    server = await serve(http_port=0, tls_certificate=certificate, tls_key=key)
    old = trusting(certificate)
    assert 200 == (await call(server, "POST", CLASSIFY, photo("red"), tls=old)).status
    for source, target in zip(issue(tmp_path / "new", "server"), (certificate, key), strict=True):
        target.write_bytes(source.read_bytes())
    renewed = trusting(certificate)
    assert 200 == (await call(server, "POST", CLASSIFY, photo("red"), tls=renewed)).status
    with pytest.raises(OSError, match="certificate verify failed"):
        await call(server, "GET", "/v2", tls=old)

    authority = issue(tmp_path / "ca", "authority")
    caller = issue(tmp_path / "caller", "caller", signer=authority)
    mutual = await serve(
        http_port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=authority[0]
    )
    known = trusting(certificate, *caller)
    assert 200 == (await call(mutual, "POST", CLASSIFY, photo("red"), tls=known)).status
    with pytest.raises(OSError, match=r"(?i)certificate|closed|reset|ssl"):
        await call(mutual, "GET", "/v2", tls=renewed)


async def test_a_drain_answers_what_is_in_flight(publish, process, photo):
    """SIGTERM: not ready, answered with Connection: close, calls in flight end, exit 0."""
    publish("food", loops=100_000)
    server = process(http_port=(port := free_port()), drain_delay_s=1.0, max_batch=1)
    server.http_port = port
    one = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        CLASSIFY.encode(), len(photo("red")),
    )  # fmt: skip
    server.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    not_ready = await raw(server, b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not_ready.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in not_ready
    answers = await asyncio.gather(*(raw(server, one, photo("red")) for _ in range(6)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), answers
    assert 0 == await asyncio.to_thread(server.wait, 20)


async def test_replicas_share_the_http_port(publish, process, photo):
    """All replicas answer HTTP on the one port."""
    publish("food")
    server = process(http_port=(port := free_port()), workers=2)
    server.http_port = port
    one = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (
        CLASSIFY.encode(), len(photo("red")),
    )  # fmt: skip
    answers = await asyncio.gather(*(raw(server, one, photo("red")) for _ in range(12)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), answers
