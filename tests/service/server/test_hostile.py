"""What is sent, or done, to bring a server down: it refuses what it must, and goes on."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import rig
from service.client import Classifier
from service.pb import classifier_pb2 as pb
from tests.service.api.test_streams import gauge, retry_after_s

CLASSIFY = "/hansang.v1.Classifier/Classify"
MIB = 2**20


async def outcomes(calls: list[Awaitable[object]]) -> Counter[str]:
    """Return how many calls ended with each status; a refusal must say when to try again."""
    found: Counter[str] = Counter()

    async def one(call: Awaitable[object]) -> None:
        try:
            await call
            found["OK"] += 1
        except grpc.aio.AioRpcError as error:
            hinted = retry_after_s(error) is not None
            found[error.code().name + " with RetryInfo" * hinted] += 1

    await asyncio.gather(*map(one, calls))
    return found


def resident_mib(pid: int, most: bool = False) -> float:
    """Return the resident memory of a process, now or at its highest."""
    key = "VmHWM:" if most else "VmRSS:"
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(key)[1].split()[0]) / 1024


async def test_memory_stays_below_its_bound(publish, process, connect):
    """Small calls that unpack to many bytes, and streams of large messages, all at once."""
    publish("food")
    flags = {"max_bytes_in_flight": 32 * MIB, "max_message_bytes": 8 * MIB, "max_streams": 4}
    server = process(**flags)
    before = resident_mib(server.pid)
    large = pb.ClassifyRequest(images=[bytes(7 * MIB)])
    raw = large.SerializeToString()
    async with AsyncExitStack() as channels:

        async def channel(number: int) -> grpc.aio.Channel:
            options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
            return await channels.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)
            )

        async def stream(number: int) -> None:
            stub = rig.pb_grpc.ClassifierStub(await channel(number))
            async for _ in stub.ClassifyStream([large] * 8):
                pass

        async def packed(number: int) -> None:
            call = (await channel(number)).unary_unary(CLASSIFY)
            await call(raw, compression=grpc.Compression.Gzip, timeout=60)

        calls = [packed(number) for number in range(40)]
        found = await outcomes([*calls, *(stream(100 + number) for number in range(4))])
    assert {"OK", "RESOURCE_EXHAUSTED with RetryInfo"} >= set(found), found
    assert found["OK"] >= 8
    bound = 3 * 32 + 2 * 4 * 8
    # A quarter for what malloc cannot give back at once.
    assert resident_mib(server.pid, most=True) - before < 1.25 * bound, found


async def test_a_message_that_unpacks_beyond_the_limit_is_refused(publish, serve, connect):
    """Nothing unpacks to more than the largest message."""
    publish("food")
    channel = connect.channel((await serve(max_message_bytes=2 * MIB)).port)
    raw = pb.ClassifyRequest(images=[bytes(3 * MIB)]).SerializeToString()
    calls = [channel.unary_unary(CLASSIFY)(raw, compression=grpc.Compression.Gzip)]
    assert {"RESOURCE_EXHAUSTED": 1} == await outcomes(calls)


async def test_bulk_leaves_bytes_for_interactive_calls(publish, serve, connect, photo, eventually):
    """Six streams that send all they can, and each interactive call is let in."""
    publish("food", loops=20_000)
    server = await serve(max_batch=1, max_bytes_in_flight=2 * MIB, max_message_bytes=MIB // 2)
    stub = connect(server.port)
    bulk = pb.ClassifyRequest(images=[photo("red").ljust(100_000, b"\0")])
    large = pb.ClassifyRequest(images=[photo("red").ljust(200_000, b"\0")])

    async def forever():
        while True:
            yield bulk

    streams = [stub.ClassifyStream(forever()) for _ in range(6)]
    readers = [asyncio.ensure_future(drained(each)) for each in streams]
    await eventually(lambda: gauge(server, "bytes_in_flight") > 1.3 * MIB)
    found = await outcomes([stub.Classify(large, timeout=60) for _ in range(2)])
    for _ in range(10):
        found += await outcomes([stub.Classify(large, timeout=60)])
    assert {"OK": 12} == found
    for each in (*streams, *readers):
        each.cancel()


async def drained(answers) -> None:
    """Read a stream to its end."""
    async for _ in answers:
        pass


async def test_health_watchers_take_no_streams(publish, serve, connect, photo):
    """64 watchers where two streams may be open; then a balanced client, which watches as well."""
    publish("food")
    server = await serve(max_streams=2)
    channel = connect.channel(server.port)
    request = health_pb2.HealthCheckRequest(service="hansang.v1.Classifier")
    watchers = [health_pb2_grpc.HealthStub(channel).Watch(request) for _ in range(64)]
    for watcher in watchers:
        assert health_pb2.HealthCheckResponse.SERVING == (await watcher.read()).status

    def balanced() -> str:
        where = f"127.0.0.1:{server.port}"
        with Classifier(f"ipv4:{where},{where}", timeout_s=20, retries=0) as client:
            return client.classify([photo("red")])[0].classes[0].label

    assert "red" == await asyncio.to_thread(balanced)
    answers = [each async for each in connect(server.port).ClassifyStream([])]
    assert [] == answers


async def test_calls_that_never_send_their_message(publish, serve, connect, photo):
    """2,300 on one connection; others are answered meanwhile, and health at once."""
    publish("food")
    server = await serve()
    async with rig.stub(f"127.0.0.1:{server.port}") as stub, AsyncExitStack() as closing:
        mute = await closing.enter_async_context(
            grpc.aio.insecure_channel(
                f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
            )
        )
        silent = [mute.stream_unary(CLASSIFY)() for _ in range(2300)]
        await asyncio.sleep(0.5)
        health = health_pb2_grpc.HealthStub(connect.channel(server.port))
        for _ in range(10):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            # On a slow machine its turn may come late; then it is told when to try again.
            for _ in range(20):
                request = pb.ClassifyRequest(images=[photo("red")])
                found = await outcomes([stub.Classify(request, timeout=20)])
                if found == {"OK": 1}:
                    break
                assert {"RESOURCE_EXHAUSTED with RetryInfo": 1} == found
            else:
                raise AssertionError("never answered")
        refused = await outcomes(silent[:64])
        assert {"RESOURCE_EXHAUSTED with RetryInfo": 64} == refused
        assert 64 <= sum(
            gauge(server, "rejected_images_total", reason=reason) or 0
            for reason in ("message_slow", "bytes_full")
        )
        for each in silent:
            each.cancel()


async def test_a_connection_has_a_share_of_the_calls(publish, serve, connect):
    """With 512 calls open on one connection its next one waits, and other connections go on."""
    publish("food")
    # Each of these messages may come, so that none is given up.
    server = await serve(max_message_bytes=MIB, max_bytes_in_flight=1024 * MIB)
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as mute:
        same = health_pb2_grpc.HealthStub(mute)
        await same.Check(request, timeout=20)
        silent = [mute.stream_unary(CLASSIFY)() for _ in range(512)]
        await asyncio.sleep(0.2)
        assert {"DEADLINE_EXCEEDED": 1} == await outcomes([same.Check(request, timeout=1)])
        other = health_pb2_grpc.HealthStub(connect.channel(server.port))
        await other.Check(request, timeout=20)
        for each in silent:
            each.cancel()


async def test_a_burst_is_answered_or_refused(publish, process, connect, photo):
    """3,000 calls at once, by one connection and by ten: none ends as CANCELLED."""
    publish("food")
    server = process(metrics_port=0)
    request = pb.ClassifyRequest(images=[photo("red")], top_k=1)
    for connections in (1, 10):
        async with AsyncExitStack() as stack:
            stubs = [
                await stack.enter_async_context(rig.stub(f"127.0.0.1:{server.port}"))
                for _ in range(connections)
            ]
            for stub in stubs:
                await stub.Classify(request, timeout=60)
            found = await outcomes(
                [stubs[at % connections].Classify(request, timeout=120) for at in range(3000)]
            )
        assert {"OK", "RESOURCE_EXHAUSTED with RetryInfo"} >= set(found), found
        assert 3000 == sum(found.values())
        assert found["OK"] > 100, found


async def test_a_full_model_counts_only_its_own_refusals(publish, serve, connect, photo):
    """Calls of the idle model beside it are answered, and no image counts as rejected."""
    publish("food")
    publish("fruit")
    server = await serve(queue_size=64)
    stub = connect(server.port)

    def rejected() -> float | None:
        return gauge(server, "rejected_images_total", reason="queue_full")

    with server.models.find("food").batcher.admit(64):
        idle = pb.ClassifyRequest(images=[photo("blue")], model="fruit")
        assert {"OK": 5} == await outcomes([stub.Classify(idle) for _ in range(5)])
        assert 0 == rejected()
        full = pb.ClassifyRequest(images=[photo("blue")] * 3, model="food")
        await outcomes([stub.Classify(full)])
        assert 3 == rejected()
        with server.models.find("fruit").batcher.admit(64):
            await outcomes([stub.Classify(full)])
            assert 4 == rejected()  # at the door, where nobody knows yet how many it has


async def test_a_process_that_stood_still_takes_calls_again(publish, process, connect, photo):
    """After a standstill in mid-work, the idle server admits a call of 16 with a deadline."""
    publish("food", loops=5_000)
    server = process(max_batch=4)
    stub = connect(server.port)
    request = pb.ClassifyRequest(images=[photo("red")] * 16, top_k=1)
    await stub.Classify(request, timeout=20)
    calls = [asyncio.ensure_future(stub.Classify(request, timeout=60)) for _ in range(8)]
    await asyncio.sleep(0.05)
    server.send_signal(signal.SIGSTOP)
    await asyncio.sleep(6)
    server.send_signal(signal.SIGCONT)
    await asyncio.gather(*calls)
    for _ in range(3):
        # Its deadline is far below what the standstill would have taught of 16 images.
        await stub.Classify(request, timeout=1.5)
