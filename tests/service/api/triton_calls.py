"""Calls by Triton's own client, in a process of their own: `python triton_calls.py NAME ADDRESS`.

The service has messages of the same names as the client, and one process cannot hold both. Each
function prints its result as JSON.
"""

import asyncio
import io
import json
import sys
from functools import partial

import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio
from PIL import Image
from tritonclient.utils import InferenceServerException

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def jpeg(colour):
    """Return a photo of that colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), COLOURS[colour]).save(buffer, "JPEG")
    return buffer.getvalue()


def encoded(*images, shape=None):
    """Return a BYTES input."""
    tensor = client.InferInput("images", shape or [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(tensor.shape()))
    return tensor


def pixels(*colours, size=8):
    """Return a UINT8 input."""
    array = np.array([np.full((size, size, 3), COLOURS[each], np.uint8) for each in colours])
    tensor = client.InferInput("images", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array)
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


def infer(triton):
    """Encoded images and pixels, probabilities and classes."""
    wanted = client.InferRequestedOutput("probabilities", class_count=2)
    asked = triton.infer("food", [encoded(jpeg("blue"), jpeg("red"))], outputs=[wanted])
    plain = client.InferRequestedOutput("probabilities")
    return {
        "bytes": best(triton.infer("food", [encoded(jpeg("blue"), jpeg("red"))])),
        "uint8": best(triton.infer("food", [pixels("green", "blue", "red")], outputs=[plain])),
        "classes": [
            [text.decode() for text in row] for row in asked.as_numpy("probabilities").tolist()
        ],
        "versions": [
            triton.infer("food", [encoded(jpeg("red"))], model_version=version, request_id="a1")
            .get_response(as_json=True)
            .get("model_version")
            for version in ("", "1")
        ],
        "id": triton.infer("food", [encoded(jpeg("red"))], request_id="a1").get_response().id,
        "timeout": best(
            triton.infer("food", [encoded(jpeg("red"))], timeout=5_000_000, priority=2)
        ),
        "compressed": best(
            triton.infer("food", [encoded(jpeg("red"))], compression_algorithm="gzip")
        ),
    }


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
        "server": triton.get_server_metadata(as_json=True),
        "metadata": triton.get_model_metadata("food", as_json=True),
        "config": triton.get_model_config("food", as_json=True)["config"],
        "statistics": triton.get_inference_statistics("food", as_json=True)["model_stats"],
        "index": triton.get_model_repository_index(as_json=True)["models"],
    }


def infer_raw(triton, **changes):
    """Send one image with these changes to the message; return the status and the sentence."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="food")
    tensor = request.inputs.add(name="images", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\x01\x00\x00\x00x")
    for name, value in changes.items():
        if name in ("datatype", "name"):
            setattr(tensor, name, value)
        elif name == "shape":
            tensor.shape[:] = value
        elif name == "raw":
            request.raw_input_contents[:] = value
        elif name == "contents":
            tensor.contents.bytes_contents.extend(value)
        elif name == "uints":
            tensor.contents.uint_contents.extend(value)
        else:
            setattr(request, name, value)
    try:
        triton._client_stub.ModelInfer(request)
    except Exception as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def refusals(triton):
    """Requests that cannot be answered, each with its status."""
    raw = partial(infer_raw, triton)
    one = jpeg("red")
    framed = len(one).to_bytes(4, "little") + one
    two_inputs = refusal(
        lambda: triton.infer("food", [encoded(one), client.InferInput("more", [1], "BYTES")])
    )
    shared = encoded(one)
    shared.set_shared_memory("region", 10)
    other_output = client.InferRequestedOutput("logits")
    return {
        "good": raw(raw=[framed]),
        "no such model": raw(model_name="other"),
        "NUL in the name": raw(model_name="fo\0od"),
        "path as a name": raw(model_name="../food"),
        "no such version": raw(model_version="7"),
        "path as a version": raw(model_version="../1"),
        "datatype": raw(datatype="FP32"),
        "input name": raw(name="pictures"),
        "two inputs": two_inputs,
        "shared memory": refusal(lambda: triton.infer("food", [shared])),
        "output name": refusal(
            lambda: triton.infer("food", [encoded(one)], outputs=[other_output])
        ),
        "no images": raw(shape=[0, 1], raw=[b""]),
        "too many": raw(shape=[65, 1], raw=[framed * 65]),
        "shape": raw(shape=[1, 2]),
        "fewer": raw(shape=[2, 1], raw=[framed]),
        "more": raw(shape=[1, 1], raw=[framed * 2]),
        "cut length": raw(raw=[framed + b"\x01\x00"]),
        "cut element": raw(raw=[b"\xff\xff\xff\xff" + one]),
        "mixed": raw(contents=[one]),
        "two raw": raw(raw=[framed, framed]),
        "negative shape": raw(shape=[-1, 1]),
        "pixels shape": raw(datatype="UINT8", shape=[1, 9, 9, 3], raw=[bytes(243)]),
        "pixels size": raw(datatype="UINT8", shape=[1, 8, 8, 3], raw=[bytes(191)]),
        "pixels value": raw(datatype="UINT8", shape=[1, 8, 8, 3], raw=[], uints=[256] * 192),
        "bad image": raw(shape=[2, 1], raw=[framed + b"\x04\x00\x00\x00junk"]),
        "NUL bytes": raw(raw=[b"\x03\x00\x00\x00\x00\x00\x00"]),
    }


def typed(triton):
    """Typed contents are answered with typed contents."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="food", id="t")
    tensor = request.inputs.add(name="images", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([jpeg("red"), jpeg("blue")])
    answer = triton._client_stub.ModelInfer(request)
    values = list(answer.outputs[0].contents.fp32_contents)
    return {"raw": len(answer.raw_output_contents), "rows": [values[:3], values[3:]]}


def stream(triton):
    """A stream: answers in order, an error does not end it."""
    answers = []
    done = __import__("threading").Event()

    def take(result, error):
        answers.append(
            ["error", str(error)] if error else [result.get_response().id, best(result)["best"][0]]
        )
        if len(answers) == 4:
            done.set()

    triton.start_stream(take)
    for request_id, image in (
        ("1", jpeg("red")), ("2", jpeg("green")), ("3", b"junk"), ("4", jpeg("blue")),
    ):  # fmt: skip
        triton.async_stream_infer("food", [encoded(image)], request_id=request_id)
    assert done.wait(20)
    triton.stop_stream()
    return answers


def control(triton):
    """Unload and load; what may not be is told."""
    try:
        triton.unload_model("food")
    except InferenceServerException as error:
        return {"refused": [error.status(), error.message()]}
    gone = refusal(lambda: triton.infer("food", [encoded(jpeg("red"))]))
    index = triton.get_model_repository_index(as_json=True)["models"]
    triton.load_model("food")
    return {
        "gone": gone,
        "index": index,
        "back": best(triton.infer("food", [encoded(jpeg("red"))]))["best"],
        "unknown": refusal(lambda: triton.load_model("other")),
        "path": refusal(lambda: triton.load_model("../food")),
        "config": refusal(lambda: triton.load_model("food", config="{}")),
    }


def not_offered(triton):
    """Shared memory and settings at run time: a look succeeds, a wish does not."""
    for unregister in (
        triton.unregister_system_shared_memory,
        triton.unregister_cuda_shared_memory,
    ):
        unregister()
        unregister("r")
    return {
        "looks": [
            str(triton.get_trace_settings()),
            str(triton.get_trace_settings("food")),
            str(triton.get_log_settings()),
            str(triton.get_system_shared_memory_status()),
            str(triton.get_cuda_shared_memory_status()),
        ],
        "traces": refusal(lambda: triton.update_trace_settings("food", {"trace_rate": "1"})),
        "logs": refusal(lambda: triton.update_log_settings({"log_verbose_level": 1})),
        "memory": refusal(lambda: triton.register_system_shared_memory("r", "k", 8)),
        "CUDA memory": refusal(lambda: triton.register_cuda_shared_memory("r", b"aGk=", 0, 8)),
    }


def asynchronous(triton):
    """The asyncio client, many calls at a time."""
    del triton

    async def calls():
        async with aio.InferenceServerClient(sys.argv[2]) as other:
            colours = list(COLOURS) * 8

            async def one(colour):
                tensor = aio.InferInput("images", [1, 1], "BYTES")
                tensor.set_data_from_numpy(np.array([[jpeg(colour)]], dtype=object))
                return best(await other.infer("food", [tensor]))["best"][0]

            found = await asyncio.gather(*map(one, colours))
            return [list(COLOURS)[index] for index in found] == colours

    return asyncio.run(calls())


if __name__ == "__main__":
    with client.InferenceServerClient(sys.argv[2]) as connection:
        print(json.dumps(globals()[sys.argv[1]](connection)))
