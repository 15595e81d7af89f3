"""Overload and bad images, against a server in a process of its own: `make trouble`, shorter."""

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from benchmarks import rig
from benchmarks.trouble.fuzz import fuzz
from benchmarks.trouble.overload import overload
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb


async def test_a_full_server_refuses_at_the_door(publish, serve, connect, photo):
    """What is full refuses a call before it is read, with a hint, and lets the next one in."""
    publish("food")
    server = await serve(queue_size=64)
    stub = connect(server.port)
    batcher = server.models.loaded[0].batcher
    request = pb.ClassifyRequest(images=[photo("red")])
    with batcher.admit(64), pytest.raises(grpc.aio.AioRpcError) as caught:
        # Were it read, it would be refused for another reason.
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")] * 65))
    assert StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    (hint,) = Status.FromString(details).details
    found = RetryInfo()
    assert hint.Unpack(found)
    assert found.retry_delay.ToNanoseconds() > 0
    assert "red" == (await stub.Classify(request)).results[0].classes[0].label


async def test_the_door_is_open_where_one_model_has_room(publish, serve, connect, photo):
    """A full model does not shut the door for another one; who asks for it is refused within."""
    publish("food")
    publish("fruit")
    server = await serve(queue_size=64)
    stub = connect(server.port)
    for full, idle in (("food", "fruit"), ("fruit", "food")):
        with server.models.find(full).batcher.admit(64):
            request = pb.ClassifyRequest(images=[photo("blue")], model=idle)
            assert "blue" == (await stub.Classify(request)).results[0].classes[0].label
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Classify(pb.ClassifyRequest(images=[photo("blue")], model=full))
        assert StatusCode.RESOURCE_EXHAUSTED == caught.value.code()


async def test_bytes_that_are_no_message(publish, serve, connect):
    """Bytes that are no request, and a call without any, are the caller's mistake."""
    publish("food")
    channel = connect.channel((await serve()).port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/hansang.v1.Classifier/Classify")(b"\xff\xff\xff")
    assert StatusCode.INVALID_ARGUMENT == caught.value.code()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.stream_unary("/hansang.v1.Classifier/Classify")(iter(()))
    assert StatusCode.INVALID_ARGUMENT == caught.value.code()
    assert "no message" in caught.value.details()


async def test_overload(publish, tmp_path):
    """Four times the capacity: who is let in keeps the deadline, the rest is refused with a hint.

    How much of the capacity is left for answers, and how many deadlines are kept, depends on the
    machine, which sends the load as well: `make trouble` measures it, here it must not collapse.
    """
    publish("food", loops=30_000)
    found = await overload(
        ModelRepository(tmp_path / "models"), "--max-batch", "1", "--runs", "1",
        seconds=4, deadline_s=1.0, photos=rig.photos(4, size=(60, 40)),
    )  # fmt: skip
    assert {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"} >= set(found["codes"]), found
    assert 0.7 <= found["accepted_that_kept_the_deadline"], found
    assert found["codes"]["RESOURCE_EXHAUSTED"] == found["refusals_with_retry_info"]
    assert found["codes"]["RESOURCE_EXHAUSTED"] > found["codes"]["OK"]
    assert 0.4 <= found["goodput_part"], found
    assert found["refusal_p50_ms"] < 200
    before, most = found["rss_mb"]
    assert most < before + 50
    assert found["first_call_afterwards_ms"] < 2000
    assert 0 == found["exit_code"]


@pytest.mark.parametrize("http", [False, True], ids=["gRPC", "HTTP"])
@pytest.mark.parametrize("images", [500, pytest.param(2000, marks=pytest.mark.long)])
async def test_mutated_images(publish, tmp_path, http, images):
    """Damaged images: no INTERNAL, no crash, and each good neighbour gets its own answer."""
    publish("food")
    found = await fuzz(ModelRepository(tmp_path / "models"), images=images, http=http)
    assert {"OK", "3"} == set(found["by_code"])
    assert 0 == found["internal"] == found["wrong_neighbours"] == found["kinds"]["unhandled"]
    assert min(found["by_code"].values()) > images / 20, "the fuzzer breaks everything, or nothing"
    assert found["longest_call_s"] < 10
    first, _, last = found["rss_mb"]
    assert last < first + 30
    assert 0 == found["exit_code"]
