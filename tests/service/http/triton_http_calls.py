"""Calls by Triton's HTTP client in a process of their own: `python triton_http_calls.py NAME PORT`.

The client runs on gevent, which a test's event loop does not. Each function prints its result as
JSON.
"""

import asyncio
import base64
import io
import json
import sys

import numpy as np
import tritonclient.http as client
import tritonclient.http.aio as aio
from PIL import Image
from tritonclient.utils import InferenceServerException

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def jpeg(colour):
    """Return a photo of that colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), COLOURS[colour]).save(buffer, "JPEG")
    return buffer.getvalue()


def encoded(*images, binary=True, shape=None):
    """Return a BYTES input; in JSON its elements are base64."""
    if not binary:
        images = [base64.b64encode(image) for image in images]
    tensor = client.InferInput("images", shape or [len(images), 1], "BYTES")
    array = np.array(images, dtype=object).reshape(tensor.shape())
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def pixels(*colours, binary=True, size=8):
    """Return a UINT8 input."""
    array = np.array([np.full((size, size, 3), COLOURS[each], np.uint8) for each in colours])
    tensor = client.InferInput("images", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def best(result):
    """Return the likeliest class of each row, and how it was sent."""
    rows = result.as_numpy("probabilities")
    return {"best": rows.argmax(1).tolist(), "dtype": str(rows.dtype), "shape": list(rows.shape)}


def refusal(call):
    """Return the status and the sentence of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["OK", ""]


def wanted(*, binary, classes=0):
    """Return the output, asked for in binary or JSON."""
    return [client.InferRequestedOutput("probabilities", binary_data=binary, class_count=classes)]


def infer(triton):
    """Encoded images and pixels, binary and JSON each way, probabilities and classes."""
    found = {}
    for binary_in in (True, False):
        for binary_out in (True, False):
            for name, tensor in (
                ("bytes", encoded(jpeg("blue"), jpeg("red"), binary=binary_in)),
                ("uint8", pixels("blue", "red", binary=binary_in)),
            ):
                answer = triton.infer("food", [tensor], outputs=wanted(binary=binary_out))
                found[f"{name} {binary_in} {binary_out}"] = best(answer)
    classes = {}
    for binary in (True, False):
        answer = triton.infer(
            "food", [encoded(jpeg("blue"))], outputs=wanted(binary=binary, classes=2)
        )
        row = answer.as_numpy("probabilities").reshape(-1).tolist()
        classes[str(binary)] = [t.decode() if isinstance(t, bytes) else t for t in row]
    plain = triton.infer(
        "food", [encoded(jpeg("red"))], model_version="1", request_id="a1", timeout=5_000_000,
        priority=2, headers={"x-request-id": "k"}, query_params={"a": "b"},
    )  # fmt: skip
    body, size = client.InferenceServerClient.generate_request_body([encoded(jpeg("green"))])
    parsed = client.InferenceServerClient.parse_response_body(*_post(triton, body, size))
    return {
        "tensors": found,
        "classes": classes,
        "response": plain.get_response(),
        "default": best(plain),
        "by hand": best(parsed),
        "async": [
            best(each.get_result())["best"]
            for each in [triton.async_infer("food", [encoded(jpeg(colour))]) for colour in COLOURS]
        ],
    }


def _post(triton, body, size):
    response = triton._post(
        "v2/models/food/infer", body, {"Inference-Header-Content-Length": str(size)}, None
    )
    assert response.status_code == 200
    length = response.get("Inference-Header-Content-Length")
    content = response.read()
    return content, False, int(length) if length else None


def describe(triton):
    """Everything a client may ask before it calls."""
    triton.infer("food", [encoded(jpeg("red"), jpeg("blue"))])
    return {
        "live": triton.is_server_live(),
        "ready": triton.is_server_ready(),
        "model": [
            triton.is_model_ready(*of)
            for of in (("food",), ("food", "1"), ("food", "2"), ("other",))
        ],
        "server": triton.get_server_metadata(),
        "metadata": triton.get_model_metadata("food"),
        "version": triton.get_model_metadata("food", "1"),
        "config": triton.get_model_config("food"),
        "statistics": triton.get_inference_statistics("food")["model_stats"],
        "all": triton.get_inference_statistics()["model_stats"],
        "index": triton.get_model_repository_index(),
    }


def control(triton):
    """Unload and load; what may not be is told."""
    try:
        triton.unload_model("food")
    except InferenceServerException as error:
        return {"refused": [error.status(), error.message()]}
    gone = refusal(lambda: triton.infer("food", [encoded(jpeg("red"))]))
    index = triton.get_model_repository_index()
    triton.load_model("food")
    return {
        "gone": gone,
        "index": index,
        "back": best(triton.infer("food", [encoded(jpeg("red"))]))["best"],
        "unknown": refusal(lambda: triton.load_model("other")),
        "config": refusal(lambda: triton.load_model("food", config="{}")),
    }


def not_offered(triton):
    """Methods of the client for what this server does not do: a look succeeds, a wish does not."""
    calls = {
        "update_trace_settings": ("food", {"trace_level": ["TIMESTAMPS"]}),
        "update_log_settings": ({"log_verbose_level": 1},),
        "register_system_shared_memory": ("r", "k", 8),
        "register_cuda_shared_memory": ("r", b"handle", 0, 8),
    }
    shared = encoded(jpeg("red"))
    shared.set_shared_memory("region", 10)
    return {
        "looks": [
            triton.get_trace_settings(),
            triton.get_trace_settings("food"),
            triton.get_log_settings(),
            triton.get_system_shared_memory_status(),
            triton.get_system_shared_memory_status("r"),
            triton.get_cuda_shared_memory_status(),
            triton.unregister_system_shared_memory(),
            triton.unregister_system_shared_memory("r"),
            triton.unregister_cuda_shared_memory(),
        ],
        **{
            name: refusal(lambda n=name, a=of: getattr(triton, n)(*a)) for name, of in calls.items()
        },
        "shared": refusal(lambda: triton.infer("food", [shared])),
        "gzip": refusal(
            lambda: triton.infer(
                "food", [encoded(jpeg("red"))], request_compression_algorithm="gzip"
            )
        ),
        "wanted gzip": best(
            triton.infer("food", [encoded(jpeg("red"))], response_compression_algorithm="gzip")
        )["best"],
    }


def refusals(triton):
    """Requests that cannot be answered, each with its status and its sentence."""
    one = base64.b64encode(jpeg("red")).decode()
    good = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [one]}

    def raw(body, headers=None, path="v2/models/food/infer"):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = triton._post(path, text, headers, None)
        content = json.loads(response.read())
        return [response.status_code, content.get("error", "")]

    def one_input(**changes):
        return raw({"inputs": [{**good, **changes}]})

    def binary(size, data=b"", shape=1):
        header = json.dumps(
            {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [shape],
                         "parameters": {"binary_data_size": size}}]}
        ).encode()  # fmt: skip
        return raw(header + data, {"Inference-Header-Content-Length": str(len(header))})

    return {
        "good": raw({"inputs": [good]}),
        "no JSON": raw(b"{"),
        "deep": raw(b"[" * 100_000),
        "no object": raw([]),
        "inputs": raw({"inputs": {}}),
        "an input": raw({"inputs": [1]}),
        "no input": raw({}),
        "two inputs": raw({"inputs": [good, good]}),
        "id": raw({"id": 1, "inputs": [good]}),
        "name": one_input(name=None),
        "datatype": one_input(datatype="FP32"),
        "shape": one_input(shape=["1"]),
        "huge shape": one_input(shape=[2**70]),
        "no base64": one_input(data=["!"]),
        "no text": one_input(data=[1]),
        "no data": one_input(data=None),
        "junk": one_input(data=[base64.b64encode(b"junk").decode()]),
        "pixels": one_input(datatype="UINT8", shape=[1, 8, 8, 3], data=[256] * 192),
        "ragged": one_input(datatype="UINT8", shape=[1, 8, 8, 3], data=[[1], [1, 2]]),
        "parameter": raw({"inputs": [good], "parameters": {"a": []}}),
        "priority": raw({"inputs": [good], "parameters": {"priority": "first"}}),
        "output": raw({"inputs": [good], "outputs": [{"name": "logits"}]}),
        "size": binary(10),
        "negative size": binary(-1),
        "rest": binary(0, b"x"),
        "cut": binary(3, b"abc"),
        "header length": raw({"inputs": [good]}, {"Inference-Header-Content-Length": "9999"}),
        "no number": raw({"inputs": [good]}, {"Inference-Header-Content-Length": "-1"}),
        "no model": raw({"inputs": [good]}, path="v2/models/other/infer"),
        "no version": raw({"inputs": [good]}, path="v2/models/food/versions/7/infer"),
        "a path": raw({"inputs": [good]}, path="v2/models/food/versions/..%2f1/infer"),
    }


def asynchronous(triton):
    """The asyncio client, many calls at a time."""
    del triton

    async def calls():
        async with aio.InferenceServerClient(f"127.0.0.1:{sys.argv[2]}") as other:
            colours = list(COLOURS) * 8

            async def one(colour):
                return best(await other.infer("food", [encoded(jpeg(colour))]))["best"][0]

            found = await asyncio.gather(*map(one, colours))
            return [list(COLOURS)[index] for index in found] == colours

    return asyncio.run(calls())


if __name__ == "__main__":
    with client.InferenceServerClient(f"127.0.0.1:{sys.argv[2]}", concurrency=4) as connection:
        print(json.dumps(globals()[sys.argv[1]](connection)))
