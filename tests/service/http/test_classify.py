"""`POST /v1/models/NAME:classify`: a photo as it is, as a form, as JSON; gRPC's answers."""

import asyncio
import base64
import json
import shutil
import subprocess

import pytest
from google.protobuf import json_format

from service.pb import classifier_pb2 as pb

CLASSIFY = "/v1/models/food:classify"


def form(*photos, boundary="xyz"):
    """Return a multipart body and its headers."""
    parts = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="photo"; filename="%d.jpg"\r\n\r\n%s\r\n'
        % (boundary.encode(), at, photo)
        for at, photo in enumerate(photos)
    )
    return parts + b"--%s--\r\n" % boundary.encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def labels(answer):
    """Return the likeliest label of each result, or its error."""
    return [
        each["classes"][0]["label"] if each["classes"] else each["error"]["message"]
        for each in answer.json["results"]
    ]


async def test_every_form_of_body_gets_the_answer_of_grpc(publish, serve, connect, call, photo):
    """A body, a form and JSON say to HTTP what one message says to gRPC, and are answered alike."""
    publish("food")
    server = await serve(http_port=0)
    red, blue = photo("red"), photo("blue")
    request = pb.ClassifyRequest(images=[red, blue], top_k=2)
    told = await connect(server.port).Classify(request)
    body, headers = form(red, blue)

    by_form = await call(server, "POST", f"{CLASSIFY}?topK=2", body, headers)
    by_json = await call(
        server, "POST", CLASSIFY,
        json.dumps({"images": [base64.b64encode(each).decode() for each in (red, blue)],
                    "topK": 2}),
        {"content-type": "application/json"},
    )  # fmt: skip
    by_body = await call(server, "POST", f"{CLASSIFY}?topK=2", red)

    for answer in (by_form, by_json):
        assert 200 == answer.status, answer.body
        assert told == json_format.Parse(answer.body, pb.ClassifyResponse())
    assert told.results[:1] == json_format.Parse(by_body.body, pb.ClassifyResponse()).results
    assert {"label", "probability", "index"} == set(by_body.json["results"][0]["classes"][0])
    assert "application/json" == by_body.headers["content-type"]


async def test_one_bad_photo_spares_the_others(publish, serve, call, photo):
    """An unreadable part gets an error of its own, with the sentence that gRPC gives."""
    publish("food")
    server = await serve(http_port=0)
    answer = await call(server, "POST", CLASSIFY, *form(photo("red"), b"junk", photo("green")))

    assert 200 == answer.status
    red, error, green = labels(answer)
    assert ("red", "green") == (red, green)
    assert "JPEG" in error
    assert 3 == answer.json["results"][1]["error"]["code"]


async def test_64_photos_are_the_most(publish, serve, call, photo):
    """64 parts are answered; 65 are refused, in a form as in JSON."""
    publish("food")
    server = await serve(http_port=0)
    most = await call(server, "POST", CLASSIFY, *form(*[photo("red")] * 64))
    assert (200, ["red"] * 64) == (most.status, labels(most))

    many = base64.b64encode(photo("red")).decode()
    for body, headers in (
        form(*[photo("red")] * 65),
        (json.dumps({"images": [many] * 65}), {"content-type": "application/json"}),
        form(),
    ):
        refused = await call(server, "POST", CLASSIFY, body, headers)
        assert 400 == refused.status
        assert "1 to 64" in refused.json["detail"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "says"),
    [
        ("/v1/models/other:classify", b"x", {}, 404, "there is food"),
        (f"{CLASSIFY}?colour=1", b"x", {}, 400, "'colour' is no parameter"),
        (f"{CLASSIFY}?topK=many", b"x", {}, 400, "topK"),
        (f"{CLASSIFY}?topK=-1", b"x", {}, 400, "top_k: must not be negative, is -1"),
        (f"{CLASSIFY}?priority=FIRST", b"x", {}, 400, "priority"),
        (f"{CLASSIFY}?modelVersion=7", b"x", {}, 404, "version 7"),
        (CLASSIFY, b"{", {"content-type": "application/json"}, 400, "no JSON"),
        (CLASSIFY, b"[]", {"content-type": "application/json"}, 400, "JSON object"),
        (CLASSIFY, b'{"pictures": []}', {"content-type": "application/json"}, 400, "pictures"),
        (CLASSIFY, b'{"images": ["abcde"]}', {"content-type": "application/json"}, 400, "images"),
        (CLASSIFY, b'{"model": "x"}', {"content-type": "application/json"}, 400, "the URL has"),
        (CLASSIFY, b"x", {"content-type": "multipart/form-data"}, 400, "multipart"),
        (CLASSIFY, b"x", {"content-type": "multipart/form-data; boundary=a"}, 400, "multipart"),
        (CLASSIFY, b"x", {"x-request-timeout-ms": "soon"}, 400, "no number of milliseconds"),
        ("/v1/models/food?version=one", None, {}, 400, "no number"),
    ],
)
async def test_each_mistake_has_a_problem(publish, serve, call, path, body, headers, status, says):
    """A wrong request is a problem of RFC 9457 that says what is wrong."""
    publish("food")
    server = await serve(http_port=0)
    answer = await call(server, "POST" if body else "GET", path, body, headers)

    assert status == answer.status, answer.body
    assert "application/problem+json" == answer.headers["content-type"]
    assert says in answer.json["detail"]
    assert answer.json["detail"] == answer.json["error"]
    assert status == answer.json["status"]


async def test_models_are_described(publish, serve, connect, call):
    """The list and a model's description are those of gRPC."""
    publish("food", labels=("김치", "bibimbap"))
    publish("health")
    server = await serve(http_port=0)
    listed = await call(server, "GET", "/v1/models")
    one = await call(server, "GET", "/v1/models/food")
    told = await connect(server.port).GetModel(pb.GetModelRequest(model="food"))

    assert ["food", "health"] == sorted(each["name"] for each in listed.json["models"])
    assert told == json_format.Parse(one.body, pb.Model())
    assert "김치" in one.body.decode()


async def test_what_is_not_there_and_what_is_not_taken(publish, serve, call):
    """An unknown path is 404, a known one with another method 405; both are problems."""
    publish("food")
    server = await serve(http_port=0)
    assert 404 == (await call(server, "GET", "/v3")).status
    wrong = await call(server, "DELETE", "/v1/models")
    assert (405, "/v1/models takes no DELETE") == (wrong.status, wrong.json["detail"])
    assert 404 == (await call(server, "GET", "/v1/models/../../etc/passwd")).status


async def test_a_caller_that_goes_costs_nothing_more(publish, serve):
    """A caller that hangs up while its photo is computed is counted as cancelled, as over gRPC."""
    publish("food")
    server = await serve(http_port=0)
    code = "cancelled"

    async def send():
        _, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        body = b"\xff\xd8" + b"x" * 100
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n%s"
                     % (CLASSIFY.encode(), body))  # fmt: skip
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    await send()
    counted = server.metrics.request_seconds.labels("/hansang.v1.Classifier/Classify", code.upper())
    for _ in range(100):
        if counted._sum.get():
            break
        await asyncio.sleep(0.05)
    assert 0 < counted._sum.get()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_curl_needs_no_options(publish, serve, photo, tmp_path):
    """`curl --data-binary @photo` as people type it, Content-Type as curl makes it up."""
    publish("food")
    server = await serve(http_port=0)
    (tmp_path / "photo.jpg").write_bytes(photo("green"))
    url = f"http://127.0.0.1:{server.http_port}{CLASSIFY}"
    for arguments in (["--data-binary", "@photo.jpg"], ["-F", "photo=@photo.jpg"],
                      ["-T", "photo.jpg", "-X", "POST"]):  # fmt: skip
        ran = await asyncio.to_thread(
            subprocess.run, ["curl", "-sSf", *arguments, url],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert 0 == ran.returncode, ran.stderr
        assert "green" == json.loads(ran.stdout)["results"][0]["classes"][0]["label"]
