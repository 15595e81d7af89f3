"""Reports of mistakes, over both ports: kept where the server keeps photos, refused elsewhere."""

import hashlib
import json

from service.errors import NotOfferedError
from service.pb import classifier_pb2 as pb


def name(photo):
    """Return the name that a photo is kept under."""
    return f"{hashlib.sha256(photo).hexdigest()[:32]}.jpg"


async def test_a_mistake_is_kept_with_its_label(publish, serve, connect, call, photo, tmp_path):
    """Over both ports; a label that is none, and no picture, are refused."""
    publish("food")
    server = await serve(capture=str(tmp_path / "kept"), capture_below=0.0, http_port=0)
    classifier = connect(server.port)
    request = pb.ReportMistakeRequest(image=photo("red"), label="green")
    answer = await classifier.ReportMistake(request)
    assert f"food/{name(photo('red'))}" == answer.photo
    about = json.loads((tmp_path / "kept" / answer.photo).with_suffix(".json").read_text())
    assert ("mistake", "green", "red") == (
        about["reason"], about["label"], about["classes"][0]["label"]
    )  # fmt: skip

    path = "/v1/models/food:reportMistake"
    answer = await call(server, "POST", f"{path}?label=red", photo("blue"))
    assert 200 == answer.status
    assert f"food/{name(photo('blue'))}" == answer.json["photo"]
    for query, body, words in (("?label=pink", photo("red"), "no class"), ("", b"junk", "JPEG")):
        refused = await call(server, "POST", path + query, body)
        assert 400 == refused.status
        assert words in refused.json["detail"]
    assert 2 == len(list((tmp_path / "kept").rglob("*.jpg")))


async def test_nothing_is_kept_unless_asked_for(publish, serve, connect, call, photo):
    """The default: reports are refused with what to do."""
    publish("food")
    server = await serve(http_port=0)
    assert not (await connect(server.port).GetModel(pb.GetModelRequest())).takes_reports
    refused = await call(server, "POST", "/v1/models/food:reportMistake", photo("red"))
    assert 501 == refused.status
    assert "--capture" in refused.json["detail"]
    assert NotOfferedError.code.name == refused.json["code"]
