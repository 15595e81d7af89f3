"""A model's threshold: answers below it say so, by every way to ask."""

import asyncio
import json

import pytest

from service.cli.classify import _answer
from service.client import AsyncClassifier
from service.client.results_file import ResultsFile
from service.offline import plan as plans
from service.offline import worker
from service.offline.plan import Wish
from service.offline.worker import Job
from service.pb import classifier_pb2 as pb
from storage import Folder

WEIGHTS = [[0.01 * (row == column) for column in range(3)] for row in range(3)]
"""A red photo is red with 0.86, a dark one with 0.43."""


@pytest.fixture
def photos(photo):
    """A photo of which the model is sure, one of which it is not, and one that is none."""
    return [photo("red"), photo("dark"), b"junk"]


async def test_every_answer_says_whether_it_is_below_the_threshold(
    publish, serve, connect, call, photos, tmp_path
):
    """Over gRPC, HTTP, by the client and offline; the model tells its threshold."""
    publish("food", weights=WEIGHTS, properties={"min_confidence": "0.6"})
    server = await serve(http_port=0)
    stub = connect(server.port)

    told = await stub.Classify(pb.ClassifyRequest(images=photos))
    assert [False, True, False] == [each.below_threshold for each in told.results]
    assert 0.6 == (await stub.GetModel(pb.GetModelRequest())).min_confidence
    for image, expected in zip(photos, (False, True, False), strict=True):
        by_http = await call(server, "POST", "/v1/models/food:classify", image)
        assert expected is by_http.json["results"][0]["belowThreshold"]
    assert 0.6 == (await call(server, "GET", "/v1/models/food")).json["minConfidence"]

    async with AsyncClassifier(f"127.0.0.1:{server.port}") as client:
        results = await client.classify(photos)
        assert 0.6 == (await client.model()).min_confidence
    assert [False, True, False] == [each.below_threshold for each in results]
    assert ["red 8", "not sure: red 4"] == [
        _answer(each)[:length] for each, length in zip(results, (5, 15), strict=False)
    ]

    folder = tmp_path / "photos"
    folder.mkdir()
    for at, image in enumerate(photos):
        (folder / f"{at}.jpg").write_bytes(image)
    wish = Wish(photos=(str(folder),), model="food", version=1, top_k=1)
    out = Folder(tmp_path / "out")
    job = Job(
        plan=plans.make(out, wish, 16), out=str(tmp_path / "out"),
        repository=str(tmp_path / "models"), device="cpu",
    )  # fmt: skip
    await asyncio.to_thread(worker.answer, job, 0)
    lines = [json.loads(line) for line in out.read(plans.answers_file(0)).splitlines()]
    assert [False, True, False] == [line["below_threshold"] for line in lines]

    with ResultsFile(tmp_path / "results.csv", 1) as written:
        for at, result in enumerate(results[:2]):
            written.add(folder / f"{at}.jpg", result)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert ["below_threshold", "false", "true"] == [row.split(",")[3] for row in rows]


async def test_a_model_without_a_threshold_is_never_below_it(publish, serve, connect, photos):
    """Whatever the probability, as before."""
    publish("food", weights=WEIGHTS)
    stub = connect((await serve()).port)

    told = await stub.Classify(pb.ClassifyRequest(images=photos))
    assert [False] * 3 == [each.below_threshold for each in told.results]
    assert not (await stub.GetModel(pb.GetModelRequest())).HasField("min_confidence")
