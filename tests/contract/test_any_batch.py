"""The same bytes get the same answer, alone or in any batch: ResNet18, over a real socket."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rig
from service.config import ServerConfig
from service.pb import classifier_pb2 as pb
from service.server.server import Server

TOLERANCE = 1e-5
"""Of a probability (docs/reference/model-contract.md): kernels of other batch sizes sum in another
order."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Give a model repository with a ResNet18 of random weights."""
    folder = tmp_path_factory.mktemp("batch")
    from service.models.repository import ModelRepository

    store = ModelRepository(folder / "models")
    store.publish("food", rig.real_model(folder / "model.onnx", image_size=32))
    return store.root


def rows(answer: pb.ClassifyResponse) -> np.ndarray:
    """Return each image's probabilities in the order of the classes."""
    found = np.full((len(answer.results), 42), np.nan)
    for row_K, result in zip(found, answer.results, strict=True):
        for each in result.classes:
            row_K[each.index] = each.probability
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_bytes_get_the_same_answer_in_any_batch(repository, seed):
    """Groups of any size, in any order, many at a time, with damaged photos between them."""
    rng = random.Random(seed)
    photos = rig.photos(12, size=(90, 60), seed=seed)
    config = ServerConfig(
        repository=repository, host="127.0.0.1", port=0, http_port=None,
        metrics_port=None, device="cpu",
        runs=2, max_batch=8, max_delay_ms=5,
    )  # fmt: skip
    async with Server(config) as server, rig.stub(f"127.0.0.1:{server.port}") as stub:

        async def ask(images: list[bytes]) -> np.ndarray:
            return rows(await stub.Classify(pb.ClassifyRequest(images=images, top_k=42)))

        alone = np.concatenate([await ask([photo]) for photo in photos])
        assert not np.isnan(alone).any()

        async def together() -> float:
            chosen = [rng.randrange(-2, len(photos)) for _ in range(rng.randrange(1, 17))]
            images = [photos[number] if number >= 0 else b"\xff\xd8 cut" for number in chosen]
            found = await ask(images)
            good = [at for at, number in enumerate(chosen) if number >= 0]
            assert np.isnan(np.delete(found, good, axis=0)).all()
            wanted = alone[[chosen[at] for at in good]]
            return float(np.abs(found[good] - wanted).max(initial=0))

        differences = await asyncio.gather(*(together() for _ in range(40)))
    assert max(differences) <= TOLERANCE
