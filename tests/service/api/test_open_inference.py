"""The Open Inference Protocol, called by Triton's own client over a real socket."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

CALLS = Path(__file__).with_name("triton_calls.py")

DESCRIPTORS = """
import json
import sys
from google.protobuf.descriptor_pb2 import DescriptorProto
def tell(message, prefix=""):
    name = prefix + message.name
    for field in message.fields:
        kind = field.message_type or field.enum_type
        yield [f"{name}.{field.name}", field.number, field.type, field.is_repeated,
               kind.full_name if kind else ""]
    for inner in message.nested_types:
        yield from tell(inner, name + ".")
def enums(messages, own):
    yield from own
    for inner in messages:
        yield from enums(inner.nested_types, inner.enum_types)
if sys.argv[1] == "ours":
    from service.pb import inference_pb2 as a
    files = [a.DESCRIPTOR]
else:
    from tritonclient.grpc import model_config_pb2 as a, service_pb2 as b
    files = [a.DESCRIPTOR, b.DESCRIPTOR]
found = [line for file in files for m in file.message_types_by_name.values() for line in tell(m)]
values = [[e.full_name, v.name, v.number] for file in files
          for e in enums(file.message_types_by_name.values(), file.enum_types_by_name.values())
          for v in e.values]
methods = [[s.full_name, m.name, m.input_type.full_name, m.output_type.full_name,
            m.client_streaming, m.server_streaming]
           for file in files for s in file.services_by_name.values() for m in s.methods]
print(json.dumps([found, values, methods]))
"""


@pytest.fixture(autouse=True)
def _triton():
    pytest.importorskip("tritonclient")


@pytest.fixture
async def triton(publish, serve):
    """`await triton("infer", …)` runs that function of triton_calls against a server."""
    publish("food")
    servers = {}

    async def call(name: str, **changes):
        key = json.dumps(changes)
        if key not in servers:
            servers[key] = await serve(**changes)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, CALLS, name, f"127.0.0.1:{servers[key].port}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert 0 == done.returncode, done.stderr[-3000:]
        return json.loads(done.stdout)

    return call


def test_messages_are_the_published_ones():
    """Every message, field number, type, enum value and method of ours is as in Triton's client."""
    ours, theirs = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", DESCRIPTORS, whose],
                cwd=ROOT,
                check=True,
                capture_output=True,
            ).stdout
        )
        for whose in ("ours", "theirs")
    )
    for mine, published in zip(ours, theirs, strict=True):
        assert mine
        assert [] == [line for line in mine if line not in published]
    # A field of config.pbtxt that is not known here could not be kept.
    mine, published = ours[0], theirs[0]
    roots = {"ModelConfig"}
    while (
        more := {
            line[4].removeprefix("inference.").split(".")[0]
            for line in published
            if line[4] and line[0].split(".")[0] in roots
        }
        - roots
    ):
        roots |= more
    assert "ModelWarmup" in roots
    missing = [line for line in published if line[0].split(".")[0] in roots and line not in mine]
    names = {name for name, _, _ in ours[1]}
    missing += [value for value in theirs[1] if value[0] in names and value not in ours[1]]
    assert {"inference.DataType", "inference.ModelInstanceGroup.Kind"} < names
    assert [] == missing


async def test_both_kinds_of_input_and_of_output(triton):
    """Encoded images and pixels; probabilities and Triton's classification; id, version, gzip."""
    found = await triton("infer")
    assert {"best": [2, 0], "dtype": "float32", "shape": [2, 3]} == found["bytes"]
    assert {"best": [1, 2, 0], "dtype": "float32", "shape": [3, 3]} == found["uint8"]
    for row, first in zip(found["classes"], ("2:blue", "0:red"), strict=True):
        assert 2 == len(row)
        value, index, label = row[0].split(":")
        assert f"{index}:{label}" == first
        assert 0.9 < float(value) <= 1
    assert ["1", "1"] == found["versions"]
    assert "a1" == found["id"]
    assert [0] == found["timeout"]["best"] == found["compressed"]["best"]


async def test_a_client_learns_what_there_is(triton):
    """Live, ready, metadata, config, statistics and index say what Triton's client reads."""
    found = await triton("describe")
    assert found["live"]
    assert found["ready"]
    assert [True, True, False, False] == found["model"]
    assert "hansang" == found["server"]["name"]
    assert "statistics" in found["server"]["extensions"]
    assert ["1"] == found["metadata"]["versions"]
    assert ["-1", "1"] == found["metadata"]["inputs"][0]["shape"]
    assert ["-1", "3"] == found["metadata"]["outputs"][0]["shape"]
    assert ("food", 64) == (found["config"]["name"], found["config"]["max_batch_size"])
    assert "TYPE_STRING" == found["config"]["input"][0]["data_type"]
    uint8 = found["config"]["parameters"]["images.UINT8"]
    assert "[-1, 8, 8, 3]" == uint8["string_value"]
    (statistics,) = found["statistics"]
    assert "2" == statistics["inference_count"]
    counts = {name: each["count"] for name, each in statistics["inference_stats"].items()
              if "count" in each}  # fmt: skip
    stages = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert dict.fromkeys(stages, "1") == counts
    assert [{"name": "food", "version": "1", "state": "READY"}] == found["index"]


async def test_what_is_not_offered_is_told(triton):
    """A client that looks finds nothing; one that asks for more is told what to do instead."""
    found = await triton("not_offered")
    assert [""] * 5 == found.pop("looks")
    sentences = {
        "traces": "start the server with --otlp-endpoint",
        "logs": "start the server with --log-level",
        "memory": "shared memory is not offered; send the tensors",
        "CUDA memory": "shared memory is not offered; send the tensors",
    }
    assert sentences.keys() == found.keys()
    for what, (code, sentence) in found.items():
        assert "INVALID_ARGUMENT" in code
        assert sentences[what] in sentence


async def test_wrong_requests_get_a_sentence_that_helps(triton):
    """Each is INVALID_ARGUMENT or NOT_FOUND, and says what came and what is expected."""
    found = await triton("refusals")
    assert ["OK", ""] == found.pop("good")
    for case in ("no such model", "NUL in the name", "path as a name", "no such version"):
        code, sentence = found.pop(case)
        assert "NOT_FOUND" == code, case
        assert "there is" in sentence
    expected = {
        "path as a version": "is no number",
        "datatype": "BYTES (encoded images) or UINT8",
        "input name": "the input is 'images'",
        "two inputs": "one is expected",
        "shared memory": "not offered",
        "output name": "the output is 'probabilities'",
        "no images": "1 to 64",
        "too many": "not 65",
        "shape": "BYTES has [N, 1]",
        "fewer": "1 elements, and the shape says 2",
        "more": "more elements than the 1",
        "cut length": "cut off",
        "cut element": "4294967295 bytes",
        "mixed": "send one of them",
        "two raw": "2 entries for one input",
        "negative shape": "not -1",
        "pixels shape": "[N, 8, 8, 3]",
        "pixels size": "191 bytes",
        "pixels value": "UINT8 ends at 255",
        "bad image": "element 1: this is a",
        "NUL bytes": "element 0: this is a",
    }
    assert expected.keys() == found.keys()
    for case, words in expected.items():
        code, sentence = found[case]
        assert "INVALID_ARGUMENT" in code, case
        assert words in sentence, (case, sentence)


async def test_typed_contents_are_answered_in_kind(triton):
    """A client that sends no raw contents gets none."""
    found = await triton("typed")
    assert 0 == found["raw"]
    assert [0, 2] == [row.index(max(row)) for row in found["rows"]]


async def test_stream_answers_in_order_and_survives_an_error(triton):
    """Four requests, one of them no picture: three answers and one error, in their order."""
    one, two, three, four = await triton("stream")
    assert [["1", 0], ["2", 1], ["4", 2]] == [one, two, four]
    assert "error" == three[0]
    assert "a text file, which is not read here" in three[1]


async def test_models_are_not_loaded_by_callers_unless_allowed(triton):
    """Off by default: PERMISSION_DENIED names the option. On: unloaded, gone, loaded, back."""
    code, sentence = (await triton("control"))["refused"]
    assert "PERMISSION_DENIED" in code
    assert "--model-control" in sentence

    found = await triton("control", model_control=True)
    assert "NOT_FOUND" in found["gone"][0]
    assert [("food", "UNAVAILABLE")] == [(e["name"], e["state"]) for e in found["index"]]
    assert [0] == found["back"]
    assert "NOT_FOUND" in found["unknown"][0]
    assert "INVALID_ARGUMENT" in found["path"][0]
    assert "INVALID_ARGUMENT" in found["config"][0]


async def test_the_asyncio_client_calls_as_well(triton):
    """24 calls at a time, each with its own answer."""
    assert await triton("asynchronous")
