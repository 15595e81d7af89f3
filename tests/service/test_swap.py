"""New versions under load: swapped without a failed call, or refused."""

import asyncio
import gc
import shutil
import weakref

import numpy as np
import pytest

from service.model_store import ModelStore
from service.pb import classifier_pb2 as pb

# Red photos get the first class from one set of weights, and the last from the other.
WEIGHTS = {
    "red": [[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]],
    "blue": [[0, 0, 0.05], [0, 0.05, 0], [0.05, 0, 0]],
}


def sample(server, name: str, **labels: str) -> float | None:
    """Return a figure of the server's metrics."""
    return server.metrics.registry.get_sample_value(f"hansang_{name}", labels)


def version(server, model: str = "food") -> int:
    """Return the version that serves."""
    return server.models.find(model).version


async def test_swap_under_load_fails_no_call(publish, serve, connect, photo, eventually, tmp_path):
    """Releases and a rollback under load: no call fails, each answer is of the version it names."""
    publish("food", weights=WEIGHTS["red"])
    server = await serve()
    stub = connect(server.port)
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def call_again_and_again() -> None:
        request = pb.ClassifyRequest(images=[photo("red")], top_k=1)
        while not done.is_set():
            answer = await stub.Classify(request)
            answers.append((answer.model_version, answer.results[0].classes[0].label))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call_again_and_again())
        await eventually(lambda: (1, "red") in answers)
        publish("food", weights=WEIGHTS["blue"])
        await eventually(lambda: (2, "blue") in answers)
        publish("food", weights=WEIGHTS["red"])
        await eventually(lambda: (3, "red") in answers)
        assert 2 == await asyncio.to_thread(ModelStore(tmp_path / "models").rollback, "food")
        await eventually(lambda: version(server) == 2 and answers[-1] == (2, "blue"))
        done.set()
    assert {(1, "red"), (2, "blue"), (3, "red")} == set(answers)
    assert 2 == sample(server, "model_version", model="food")


async def test_old_version_is_let_go(publish, serve, eventually):
    """After a swap nothing holds the old session: its memory goes back."""
    publish("food")
    server = await serve()
    old = weakref.ref(server.models.find("food").model)
    publish("food")

    def gone() -> bool:
        gc.collect()
        return old() is None

    await eventually(gone)
    assert 2 == version(server)


async def test_work_in_flight_ends_on_the_version_that_took_it(publish, serve, eventually):
    """What was admitted before a swap is answered by the old version after it, which then ends."""
    publish("food", weights=WEIGHTS["red"])
    server = await serve()
    old = server.models.find("food")
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    with old.batcher.admit(1):
        publish("food", weights=WEIGHTS["blue"])
        await eventually(lambda: version(server) == 2)
        (row,) = await old.batcher.submit([red])
        (new_row,) = await server.models.find("food").batcher.submit([red])
    assert (0, 2) == (row.argmax(), new_row.argmax())


@pytest.mark.parametrize("broken", ["warm-up", "truncated", "absent"])
async def test_broken_version_is_refused(
    publish, serve, connect, photo, eventually, tmp_path, caplog, broken
):
    """The old version serves on; log and metric have it; a good version is taken afterwards."""
    publish("food", weights=WEIGHTS["red"])
    server = await serve()
    stub = connect(server.port)
    if broken == "warm-up":
        publish("food", softmax=False)
    else:
        # Broken outside, since a store would not publish it; then moved in as a whole.
        staged = tmp_path / "staged"
        shutil.copytree(tmp_path / "models", staged)
        publish("food", repository=staged)
        model = ModelStore(staged).path("food", 2)
        if broken == "truncated":
            model.write_bytes(model.read_bytes()[:100])
        else:
            model.unlink()
        shutil.copytree(staged / "food" / "2", tmp_path / "models" / "food" / "2")
        (staged / "food" / "config.pbtxt").replace(tmp_path / "models" / "food" / "config.pbtxt")
    await eventually(lambda: sample(server, "swap_failures_total", model="food") == 1)
    assert "version 1 serves on" in caplog.text
    answer = await stub.Classify(pb.ClassifyRequest(images=[photo("red")], top_k=1))
    assert (1, "red") == (answer.model_version, answer.results[0].classes[0].label)

    publish("food", weights=WEIGHTS["blue"])
    await eventually(lambda: version(server) == 3)
    assert 1 == sample(server, "swap_failures_total", model="food")


async def test_new_model_appears(publish, serve, connect, photo, eventually):
    """A model released into a repository that is being served joins the others."""
    publish("food")
    server = await serve()
    publish("drink", labels=("wine", "tea", "milk"))
    await eventually(lambda: len(server.models.instances) == 2)
    answer = await connect(server.port).Classify(
        pb.ClassifyRequest(images=[photo("green")], top_k=1, model="drink")
    )
    assert "tea" == answer.results[0].classes[0].label
