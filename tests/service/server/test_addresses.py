"""Addresses to listen on and to call: IPv6, mistakes, proxies, pings, signals."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from service.client.client import AsyncClassifier
from service.errors import InvalidArgumentError, UnavailableError
from service.server.server import Server
from tests.paths import ROOT


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("host", ["::", "::1", "[::1]"])
async def test_ipv6_is_listened_on(publish, serve, photo, host):
    """With brackets and without, over gRPC and HTTP; `::` takes IPv4 as well."""
    publish("food")
    server = await serve(host=host, http_port=0, metrics_port=0)
    callers = ["[::1]"] + ["127.0.0.1"] * (host == "::")
    for caller in callers:
        async with AsyncClassifier(f"{caller}:{server.port}") as classifier:
            assert "red" == (await classifier.classify([photo("red")]))[0].classes[0].label
        reader, writer = await asyncio.open_connection(caller.strip("[]"), server.http_port)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("http_port", [None, 0], ids=["grpc", "http"])
@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("nowhere.invalid", "no address of this machine: choose one with --host"),
        ("203.0.113.7", "no address of this machine: choose one with --host"),
        ("a" * 70, "no address of this machine: choose one with --host"),
    ],
)
async def test_a_wrong_host_is_said(publish, config, host, sentence, http_port):
    """No guess about another server: the host is at fault."""
    publish("food")
    with pytest.raises(UnavailableError, match=sentence):
        await Server(config(host=host, http_port=http_port)).start()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://localhost:8500", "is a URL"),
        ("https://localhost:8500/", "is a URL"),
        ("grpc://localhost:8500", "is a URL"),
        ("localhost:8500/", "ends with a slash"),
        ("localhost", "has no port"),
    ],
)
def test_an_address_that_is_none_is_refused_at_once(address, sentence):
    """A URL would end in a lookup of a name with slashes."""
    with pytest.raises(InvalidArgumentError, match=sentence):
        AsyncClassifier(address)


async def test_the_probe_goes_past_a_proxy(publish, serve):
    """A proxy in the environment leads elsewhere; the container is healthy all the same."""
    publish("food")
    server = await serve()
    environment = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    probe = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.probe", f"localhost:{server.port}"),
        cwd=ROOT,
        env={**os.environ, **environment, "no_proxy": "", "NO_PROXY": ""},
        stdout=subprocess.PIPE,
    )
    out, _ = await probe.communicate()
    assert b"SERVING\n" == out


async def test_polite_pings_without_calls_are_borne(publish, serve, monkeypatch):
    """A client that keeps an idle connection alive is not told GOAWAY; one that floods is."""
    from service.server import grpc_port

    monkeypatch.setattr(grpc_port, "MIN_PING_INTERVAL_MS", 100)
    publish("food")
    server = await serve()

    goaway, ping = 7, 6

    async def told(pause_s: float) -> set[int]:
        """Ping eight times; return the types of the frames that came."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        found = set()
        try:
            for _ in range(8):
                writer.write(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8))
                await asyncio.sleep(pause_s)
            writer.write_eof()
            frames = await reader.read(-1)
        except ConnectionError:  # cut off before it could read why
            return {goaway}
        while frames:
            found.add(frames[3])
            frames = frames[9 + int.from_bytes(frames[:3], "big") :]
        writer.close()
        return found

    assert ping in (polite := await told(0.15))
    assert goaway not in polite
    assert goaway in await told(0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
async def test_signals_that_say_something_else(publish, process, name, workers):
    """A terminal that closes drains; SIGUSR1 and SIGUSR2 are ignored."""
    publish("food")
    server = process(workers=workers)
    server.send_signal(getattr(signal, name))
    if name != "SIGHUP":
        await asyncio.sleep(0.5)
        assert server.poll() is None
        server.terminate()
    assert 0 == await asyncio.to_thread(server.wait, 30)


async def test_reflection_knows_both_versions_and_methods(publish, serve, connect):
    """v1 as well as v1alpha; a method is found by its name, and reflection by its own."""
    publish("food")
    channel = connect.channel((await serve()).port)
    for version in ("v1", "v1alpha"):
        name = f"grpc.reflection.{version}.ServerReflection"
        call = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=reflection.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection.ServerReflectionResponse.FromString,
        )
        request = reflection.ServerReflectionRequest
        symbols = (
            "hansang.v1.Classifier",
            "hansang.v1.Classifier.Classify",
            "inference.GRPCInferenceService.ModelInfer",
            name,
        )
        asked = [request(list_services="")]
        asked += [request(file_containing_symbol=symbol) for symbol in symbols]
        asked.append(request(file_containing_symbol="hansang.v1.Classifier.Nothing"))
        listed, *files, unknown = [each async for each in call(iter(asked))]
        assert name in [each.name for each in listed.list_services_response.service]
        assert all(each.file_descriptor_response.file_descriptor_proto for each in files)
        assert grpc.StatusCode.NOT_FOUND.value[0] == unknown.error_response.error_code
