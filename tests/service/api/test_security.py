"""Who may call, and over what: TLS with certificates that change, mTLS, tokens with quotas."""

import asyncio
import shutil
import subprocess

import grpc
import pytest

from service.api.auth import Tokens, entry, new_token
from service.api.tls import Certificates
from service.client.client import AsyncClassifier
from service.errors import (
    ForbiddenError,
    InvalidArgumentError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
)

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


def issue(folder, name, *, signer=None):
    """Write NAME.pem and NAME.key for 127.0.0.1, signed by itself or by another; return both."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    signed = ["-CA", str(signer[0]), "-CAkey", str(signer[1])] if signer else []
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:localhost", *signed, "-keyout", str(key), "-out",
            str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def ask(server, photo, **settings):
    """Return the label of a red photo, asked for over a new connection."""
    async with AsyncClassifier(f"127.0.0.1:{server.port}", retries=0, **settings) as classifier:
        return (await classifier.classify([photo("red")]))[0].classes[0].label


@needs_openssl
async def test_tls_follows_its_files_without_a_restart(publish, serve, photo, tmp_path):
    """Callers who trust the old certificate fail once it is renewed; those of the new one pass."""
    publish("food")
    certificate, key = issue(tmp_path / "tls", "server")
    server = await serve(tls_certificate=certificate, tls_key=key)
    old = tmp_path / "old.pem"
    shutil.copy(certificate, old)
    assert "red" == await ask(server, photo, ca=old)
    with pytest.raises(ServiceError):
        await ask(server, photo, timeout_s=2)

    renewed = issue(tmp_path / "new", "server")
    for source, target in zip(renewed, (certificate, key), strict=True):
        shutil.copy(source, target)

    assert "red" == await ask(server, photo, ca=renewed[0])
    with pytest.raises(ServiceError):
        await ask(server, photo, ca=old, timeout_s=2)
    # Half of a renewal: the pair does not fit, and the one that served goes on.
    shutil.copy(issue(tmp_path / "third", "server")[0], certificate)
    assert "red" == await ask(server, photo, ca=renewed[0])


@needs_openssl
async def test_a_slow_handshake_is_waited_for(publish, serve, photo, tmp_path):
    """Bytes that take long, as over oceans or to a busy server, are no reason to give up."""
    publish("food")
    certificate, key = issue(tmp_path / "tls", "server")
    server = await serve(tls_certificate=certificate, tls_key=key)

    async def relay(reader, writer):
        try:
            while data := await reader.read(2**16):
                await asyncio.sleep(0.15)
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def far(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(relay(reader, there[1]), relay(there[0], writer))

    async with await asyncio.start_server(far, "127.0.0.1", 0) as distant:
        port = distant.sockets[0].getsockname()[1]
        settings = {"ca": certificate, "retries": 0}
        async with AsyncClassifier(f"127.0.0.1:{port}", **settings) as classifier:
            assert "red" == (await classifier.classify([photo("red")]))[0].classes[0].label


@needs_openssl
async def test_mtls_takes_only_callers_of_its_authority(publish, serve, photo, tmp_path):
    """A caller without a certificate, or with a stranger's, gets no connection."""
    publish("food")
    folder = tmp_path / "tls"
    authority = issue(folder, "authority")
    own, mine = issue(folder, "server"), issue(folder, "caller", signer=authority)
    stranger = issue(folder, "stranger")
    server = await serve(tls_certificate=own[0], tls_key=own[1], tls_client_ca=authority[0])

    assert "red" == await ask(server, photo, ca=own[0], certificate=mine[0], key=mine[1])
    for settings in ({}, {"certificate": stranger[0], "key": stranger[1]}):
        with pytest.raises(ServiceError):
            await ask(server, photo, ca=own[0], timeout_s=2, **settings)


@needs_openssl
def test_a_key_of_another_certificate_is_refused_at_start(tmp_path):
    """A mistake in the files is known before anything is served, and names them."""
    one, other = issue(tmp_path / "a", "one"), issue(tmp_path / "a", "other")

    with pytest.raises(InvalidArgumentError, match="no pair of certificate and key"):
        Certificates(one[0], other[1])
    with pytest.raises(InvalidArgumentError, match="cannot read"):
        Certificates(tmp_path / "missing.pem", one[1])
    with pytest.raises(InvalidArgumentError, match="holds no certificate in PEM"):
        Certificates(one[1], one[1])


async def test_only_known_tokens_call_and_withdrawn_ones_no_more(publish, serve, photo, tmp_path):
    """No token and a wrong one are UNAUTHENTICATED; the file is read again as it serves."""
    publish("food")
    (kiosk, kiosk_hash), (second, second_hash) = new_token(), new_token()
    path = tmp_path / "tokens.toml"
    path.write_text(entry("kiosk", kiosk_hash))
    server = await serve(tokens=path)

    assert "red" == await ask(server, photo, token=kiosk)
    for token in ("", "wrong", second, kiosk_hash):
        with pytest.raises(UnauthenticatedError):
            await ask(server, photo, token=token)
    path.write_text(entry("second", second_hash))
    async with asyncio.timeout(10):
        while True:
            try:
                assert "red" == await ask(server, photo, token=second)
                break
            except UnauthenticatedError:
                await asyncio.sleep(0.05)
    with pytest.raises(UnauthenticatedError):
        await ask(server, photo, token=kiosk)


async def test_a_quota_that_is_used_up_says_when_to_come_again(publish, serve, photo, tmp_path):
    """RESOURCE_EXHAUSTED with RetryInfo; another caller is not held up by it."""
    publish("food")
    (slow, slow_hash), (free, free_hash) = new_token(), new_token()
    path = tmp_path / "tokens.toml"
    path.write_text(entry("slow", slow_hash, images_per_s=0.1) + entry("free", free_hash))
    server = await serve(tokens=path)

    assert "red" == await ask(server, photo, token=slow)
    with pytest.raises(OverloadedError, match=r"slow may have 0\.1 images a second") as caught:
        await ask(server, photo, token=slow)
    assert 5 < caught.value.retry_after_s <= 10
    assert "red" == await ask(server, photo, token=free)


@pytest.mark.parametrize(("admin", "control", "code"), [
    (False, True, ForbiddenError.code), (True, False, ForbiddenError.code), (True, True, None),
])  # fmt: skip
async def test_models_are_unloaded_by_administrators_alone(
    publish, serve, tmp_path, admin, control, code
):
    """Loading and unloading is off by default, and then for callers marked admin."""
    from service.pb import inference_pb2, inference_pb2_grpc

    publish("food")
    token, sha256 = new_token()
    path = tmp_path / "tokens.toml"
    path.write_text(entry("who", sha256, admin=admin))
    server = await serve(tokens=path, model_control=control)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.RepositoryModelUnload(
            inference_pb2.RepositoryModelUnloadRequest(model_name="food"),
            metadata=(("authorization", f"Bearer {token}"),),
        )
        if code is None:
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert code == caught.value.code()


@pytest.mark.parametrize(("text", "sentence"), [
    ("[callers.a]\n", "must have sha256"),
    ("[callers.a]\nsha256 = 'ff'\n", "64 hex digits"),
    ("[callers.a]\nsha256 = '" + "0" * 64 + "'\nimages_per_s = -1\n", "no rate"),
    ("[others]\n", "only .callers"),
    ("nonsense", "tokens file"),
])  # fmt: skip
def test_a_broken_tokens_file_is_named(tmp_path, text, sentence):
    """The server does not start on one: nobody is let in by mistake."""
    path = tmp_path / "tokens.toml"
    path.write_text(text)

    with pytest.raises(InvalidArgumentError, match=sentence):
        Tokens(path)
