"""config.pbtxt, as operators write it: any valid text is understood, and what they add stays."""

from pathlib import Path

import pytest

from service.errors import ModelContractError
from service.models.repository import ModelRepository
from service.models.triton_config import (
    line,
    parse,
    served_before,
    serving_version,
    set_serving,
    to_text,
)
from service.models.working_copy import working_copy

PLAIN = "version_policy { specific { versions: 2 } }"
ADDED = """\
# Two instances on the second GPU, and a batch of four is not waited with.
instance_group: [ < count: 2, kind: KIND_GPU, gpus: [1] > ]
dynamic_batching { preferred_batch_size: [4, 8]; max_queue_delay_microseconds: 500
  priority_queue_policy { key: 1 value { max_queue_size: 9 timeout_action: DELAY } } }
optimization { execution_accelerators { gpu_execution_accelerator : [
  { name : "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ] } }
parameters { key: "execution_mode" value: { string_value: "0" } }
model_warmup { name: "first" batch_size: 1
  inputs { key: "images" value { data_type: TYPE_UINT8 dims: [8, 8, 3] random_data: true } } }
metric_tags { key: "team" value: "주방" }
response_cache { enable: true }
max_batch_size: 16
"""


@pytest.fixture
def store(tmp_path) -> ModelRepository:
    """The repository that `publish` fills."""
    return ModelRepository(tmp_path / "models")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "version_policy:{specific:{versions:[2]}}",
        "version_policy  :  <\n\tspecific <versions\n:\n[ 2 ] > >",
        "version_policy { specific { versions: 0x2 } };",
        f"# version_policy {{ specific {{ versions: 1 }} }}\n{PLAIN}  # versions: 3",
        f'name: "version_policy {{ specific {{ versions: 1 }} }}"\n{PLAIN}',
    ],
    ids=["plain", "dense", "angles", "hexadecimal", "comments", "within a string"],
)
def test_any_valid_text_names_the_version(text):
    """Spacing, `<>`, lists in brackets and comments make no difference."""
    assert 2 == serving_version(parse(text.encode(), "config.pbtxt"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# version_policy { specific { versions: 2 } }",
        "version_policy { latest { num_versions: 1 } }",
        "version_policy { specific { versions: [1, 2] } }",
    ],
    ids=["empty", "only a comment", "another policy", "two versions"],
)
def test_no_version_is_guessed(text):
    """Unless the file names exactly one version, none serves."""
    assert serving_version(parse(text.encode(), "config.pbtxt")) is None


def test_comment_of_earlier_releases_is_no_setting():
    """A file that hansang wrote before it used parameters is read, without its comment."""
    text = b'# Served before, the latest last: 1 3\nname: "food"\n' + PLAIN.encode()
    config = parse(text, "config.pbtxt")
    assert 2 == serving_version(config)
    assert served_before(config) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"name: 'food'\nversion_polcy {}", r'2:1 .*no field named "version_polcy"'),
        (b"version_policy { specific { versions: two } }", r"1:.*integer"),
        (b"instance_group { kind: KIND_TPU }", r"1:.*KIND_TPU"),
        (b"name: 'a'\nname: 'b'", r"2:.*name"),
        (b"name: '\xff'", "utf-8"),
    ],
    ids=["unknown field", "no number", "unknown value", "twice", "not UTF-8"],
)
def test_invalid_text_is_located(text, said):
    """The error names the file, the place and what is wrong there."""
    with pytest.raises(ModelContractError, match=r"models/food/config\.pbtxt .*" + said):
        parse(text, "models/food/config.pbtxt")


def test_what_is_written_is_what_is_read():
    """Text → message → text → message changes nothing but what `set_serving` names."""
    config = parse(ADDED.encode(), "config.pbtxt")
    said = {"event": "released", "reason": '쌀 "더" 나아'}
    set_serving(config, "food", 3, image_size=8, classes=5, before=[1, 2], line=said)
    again = parse(to_text(config).encode(), "config.pbtxt")
    assert config == again
    assert (3, [1, 2], said) == (serving_version(again), served_before(again), line(again))


def added(folder: Path) -> dict[str, str]:
    """Return the fields of config.pbtxt that an operator added, as text."""
    config = parse((folder / "food" / "config.pbtxt").read_bytes(), folder)
    for name in ("name", "backend", "input", "output", "version_policy"):
        config.ClearField(name)
    for name in ("hansang.served_before", "hansang.line"):
        config.parameters.pop(name, None)
    return to_text(config)


def wanted() -> str:
    """Return what `added` gives if nothing is lost."""
    return to_text(parse(ADDED.encode(), "config.pbtxt"))


def test_operators_settings_survive_releases_and_rollbacks(publish, store):
    """In a folder; the serving version and the tensors change beside them."""
    publish("food")
    config = store.root / "food" / "config.pbtxt"
    with config.open("a", encoding="utf-8") as file:
        file.write(ADDED.replace("max_batch_size: 16\n", ""))
    config.write_text(config.read_text("utf-8").replace("max_batch_size: 64", "max_batch_size: 16"))
    publish("food", image_size=16, labels=("red", "green"))
    assert (2, wanted()) == (store.serving("food"), added(store.root))
    assert 1 == store.rollback("food")
    assert (1, wanted()) == (store.serving("food"), added(store.root))
    written = parse(config.read_bytes(), config)
    assert ([8, 8, 3], [3]) == (list(written.input[0].dims), list(written.output[0].dims))


def test_operators_settings_survive_in_a_bucket(bucket, tiny_onnx, tmp_path):
    """They are pushed into the bucket, and a release and a rollback elsewhere keep them."""
    onnx = tiny_onnx(tmp_path / "tiny.onnx")
    url, name = Path("s3://bucket/models"), "bucket/models/food/config.pbtxt"
    with working_copy(url) as folder:
        ModelRepository(folder).publish("food", onnx)
    text = bucket.cat_file(name).decode().replace("max_batch_size: 64\n", "")
    bucket.pipe_file(name, (text + ADDED).encode())
    with working_copy(url) as folder:
        assert 2 == ModelRepository(folder).publish("food", onnx)
        assert wanted() == added(folder)
    with working_copy(url) as folder:
        assert (2, wanted()) == (ModelRepository(folder).serving("food"), added(folder))
        assert 1 == ModelRepository(folder).rollback("food")
    with working_copy(url) as folder:
        assert (1, wanted()) == (ModelRepository(folder).serving("food"), added(folder))


def test_field_of_a_newer_triton_stops_a_release_and_no_server(publish, store):
    """A release would lose it, so it is refused and named; what serves can still be read."""
    publish("food")
    publish("food")
    config = store.root / "food" / "config.pbtxt"
    with config.open("a", encoding="utf-8") as file:
        file.write("added_in_2030 { level: [1, 2] }\n")
    text, before = (
        config.read_bytes(),
        sorted(path.name for path in (store.root / "food").iterdir()),
    )
    assert 2 == store.serving("food")
    for change in (lambda: publish("food"), lambda: store.rollback("food")):
        with pytest.raises(ModelContractError, match="added_in_2030"):
            change()
    assert text == config.read_bytes()
    assert before == sorted(path.name for path in (store.root / "food").iterdir())
