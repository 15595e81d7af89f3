"""The Open Inference Protocol over REST, as Triton's own client speaks it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).with_name("triton_http_calls.py")


@pytest.fixture
async def triton(publish, serve):
    """`await triton("infer", …)` runs that function of triton_http_calls against a server."""
    pytest.importorskip("tritonclient")
    pytest.importorskip("geventhttpclient")
    publish("food")

    async def run(name, **changes):
        server = await serve(http_port=0, **changes)
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "ignore", CALLS, name, str(server.http_port)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert 0 == ran.returncode, ran.stderr
        return json.loads(ran.stdout)

    return run


async def test_infer_in_json_and_binary(triton):
    """Each of eight ways to send and to be answered has the same answer."""
    found = await triton("infer")
    two = {"best": [2, 0], "dtype": "float32", "shape": [2, 3]}
    assert dict.fromkeys(found["tensors"], two) == found["tensors"]
    assert 8 == len(found["tensors"])
    for texts in found["classes"].values():
        assert ["blue"] == [texts[0].split(":")[2]]
        assert 2 == len(texts)
    assert ("food", "1", "a1") == tuple(
        found["response"][key] for key in ("model_name", "model_version", "id")
    )
    assert [0] == found["default"]["best"]
    assert [1] == found["by hand"]["best"]
    assert [[0], [1], [2]] == found["async"]


async def test_describe(triton):
    """Health, metadata, configuration, statistics and index, as the protocol shapes them."""
    found = await triton("describe")
    assert (True, True, [True, True, False, False]) == (
        found["live"], found["ready"], found["model"],
    )  # fmt: skip
    assert "hansang" == found["server"]["name"]
    metadata = found["metadata"]
    assert metadata == found["version"]
    assert [{"name": "images", "datatype": "BYTES", "shape": [-1, 1]}] == metadata["inputs"]
    uint8 = found["config"]["parameters"]["images.UINT8"]
    assert "[-1, 8, 8, 3]" == uint8["string_value"]
    assert [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}] == metadata["outputs"]
    assert 64 == found["config"]["max_batch_size"]
    assert 2 == found["statistics"][0]["inference_count"]
    assert found["statistics"] == found["all"]
    assert [{"name": "food", "version": "1", "state": "READY", "reason": ""}] == found["index"]


async def test_control(triton):
    """Models load and unload where that is allowed, and nowhere else."""
    refused = (await triton("control"))["refused"]
    assert ["403", "this server was started without --model-control"] == refused

    found = await triton("control", model_control=True)
    assert "404" == found["gone"][0]
    assert "UNAVAILABLE" == found["index"][0]["state"]
    assert [0] == found["back"]
    assert "404" == found["unknown"][0]
    assert "none is taken" in found["config"][1]


async def test_what_is_not_offered_is_told(triton):
    """Looking at traces, logs and shared memory shows nothing; asking for more is refused."""
    found = await triton("not_offered")
    assert [{}, {}, {}, [], [], [], None, None, None] == found.pop("looks")
    assert [0] == found.pop("wanted gzip")
    assert ["415", "shared memory is not offered"] == [
        found.pop("gzip")[0],
        found.pop("shared")[1].partition(": ")[2].partition(";")[0],
    ]
    assert {"400"} == {status for status, _ in found.values()}
    said = {name: sentence for name, (_, sentence) in found.items()}
    assert "--otlp-endpoint" in said.pop("update_trace_settings")
    assert "--log-level" in said.pop("update_log_settings")
    assert all("shared memory is not offered" in sentence for sentence in said.values())
    assert 2 == len(said)


async def test_each_mistake_has_a_sentence(triton):
    """No request that is wrong is more than a 4xx, and each says what is wrong."""
    found = await triton("refusals")
    assert [200, ""] == found.pop("good")
    for what, (status, sentence) in found.items():
        assert status in (400, 404), (what, status, sentence)
        assert sentence, what
    said = {what: sentence for what, (_, sentence) in found.items()}
    assert "'FP32'" in said["datatype"]
    assert "binary_data_size is 10" in said["size"]
    assert "1 bytes follow" in said["rest"]
    assert "element 0" in said["junk"]
    assert "0 to 255" in said["pixels"]
    assert "there is food" in said["no model"]


async def test_the_asyncio_client(triton):
    """Many calls at a time are answered, each with its own answer."""
    assert await triton("asynchronous")
