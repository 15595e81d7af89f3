"""The engine of a CPU: what is chosen, that its answers are compared, and that nothing is lost."""

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from service.config import ServerConfig
from service.errors import ModelContractError, OtherAnswersError
from service.models.loading import verify_answers
from service.models.model import Model
from service.sessions import answers, cpu_engine, openvino
from service.sessions.cpu_engine import CpuOptions
from service.sessions.opening import CPU
from service.sessions.openvino import OPENVINO, bf16_unit

ASKED = CpuOptions(engine="openvino", runs=2)
AUTO = CpuOptions(engine="auto", runs=2)
ALLOWED = {"bf16": "allowed"}
needs_openvino = pytest.mark.skipif(
    not openvino.installed(), reason="the plugin for OpenVINO is not installed"
)
needs_bf16 = pytest.mark.skipif(
    not (openvino.installed() and bf16_unit()), reason="no OpenVINO, or a CPU without bf16"
)


@pytest.fixture
def warm(tiny_onnx, tmp_path):
    """Give `warm(options, **build)`, a model that is warmed up."""

    def make(options, **build):
        model = Model(tiny_onnx(tmp_path / "tiny.onnx", **build), device="cpu", cpu=options)
        model.warm_up(32)
        return model

    return make


def photos(count, size=8):
    """Return random pixels."""
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("flags", "unit"),
    [("sse avx512_bf16 amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 BF16"), ("avx512f bf16x", "")],
)
def test_the_unit_is_read_from_the_flags(tmp_path, flags, unit):
    """The better of two; a machine that has no such file has none."""
    about = tmp_path / "cpuinfo"
    about.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")

    assert unit == bf16_unit(about)
    assert "" == bf16_unit(tmp_path / "none")


def test_without_the_plugin_everything_is_as_before(warm, monkeypatch):
    """`auto` is onnxruntime; who asks for OpenVINO is told what to install."""
    monkeypatch.setattr(openvino, "installed", lambda: False)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    monkeypatch.setattr(openvino, "_offered", list)

    model = warm(AUTO, properties=ALLOWED)

    assert (CPU, "fp32") == (model.provider, model.precision)
    with pytest.raises(ModelContractError, match=r"pip install 'hansang\[openvino\]'"):
        warm(ASKED)


@needs_openvino
@pytest.mark.parametrize("bf16", ["refused", "not measured", None])
def test_no_release_no_bf16(warm, bf16, caplog):
    """Where bf16 brings the only advantage and is not allowed, onnxruntime computes as before."""
    caplog.set_level(logging.INFO)

    model = warm(AUTO, properties={"bf16": bf16})

    assert (CPU, "fp32") == (model.provider, model.precision)
    assert "onnxruntime computes it in fp32" in caplog.text


@needs_bf16
def test_bf16_is_taken_where_it_may_be(warm, caplog):
    """By `auto`, unless fp32 is asked for; the log says why."""
    caplog.set_level(logging.INFO)

    model = warm(AUTO, properties=ALLOWED)
    plain = warm(CpuOptions(engine="auto", precision="fp32"), properties=ALLOWED)

    assert (OPENVINO, "bf16") == (model.provider, model.precision)
    assert "its release allows it, and this CPU has" in caplog.text
    assert (CPU, "fp32") == (plain.provider, plain.precision)
    assert np.abs(model.predict(photos(8)) - plain.predict(photos(8))).max() < 3e-2


@needs_openvino
@pytest.mark.parametrize("properties", [{}, ALLOWED])
def test_an_image_gets_the_same_answer_in_any_batch(warm, properties):
    """To 1e-5 within one engine, and from several threads at a time."""
    model = warm(ASKED, properties=properties)
    images = photos(32)
    together = model.predict(images)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda at: model.predict(images[at : at + 1])[0], range(32)))

    assert OPENVINO == model.provider
    assert np.abs(together - np.stack(alone)).max() <= 1e-5


@pytest.fixture
def otherwise(monkeypatch):
    """Let OpenVINO compute int8, and answer otherwise than it should."""
    monkeypatch.setattr(cpu_engine, "_precision", lambda *_: ("int8", "the file is in it"))
    run = cpu_engine._run

    def other(session, images):
        rows = run(session, images)
        return np.roll(rows, 1, axis=1) if session.get_providers()[0] == OPENVINO else rows

    monkeypatch.setattr(cpu_engine, "_run", other)


@needs_openvino
@pytest.mark.usefixtures("otherwise")
@pytest.mark.parametrize("stored", [False, True])
def test_other_answers_are_not_served(warm, tmp_path, caplog, stored):
    """`auto` serves by onnxruntime and warns; who asked for OpenVINO is refused.

    Compared is with the version's answers, and with onnxruntime's where it has none.
    """
    model = warm(CpuOptions())
    onnx = tmp_path / "tiny.onnx"
    if stored:
        onnx.with_name(answers.FILE).write_text(answers.text(model.predict, 8))

    model = warm(AUTO)

    assert CPU == model.provider
    assert "is allowed" in caplog.text
    assert "use --cpu-engine onnxruntime" in caplog.text
    verify_answers(onnx, model)
    source = "stored answers" if stored else "onnxruntime"
    with pytest.raises(
        OtherAnswersError, match=f"OpenVINO in int8 answers otherwise than {source}"
    ):
        warm(ASKED)


@needs_openvino
def test_stored_answers_are_compared_once(warm, tmp_path, monkeypatch):
    """By what computes in the end; onnxruntime has no run before."""
    onnx = tmp_path / "tiny.onnx"
    onnx.with_name(answers.FILE).write_text(answers.text(warm(CpuOptions()).predict, 8))
    compared, run = [], cpu_engine._run

    def counted(session, images):
        compared.append((session.get_providers()[0], len(images)))
        return run(session, images)

    monkeypatch.setattr(cpu_engine, "_run", counted)

    model = warm(ASKED)
    monkeypatch.setattr(model, "predict", None)
    verify_answers(onnx, model)

    assert [(OPENVINO, 16)] == compared


@needs_openvino
@pytest.mark.parametrize(("speedup", "provider"), [(0.9, CPU), (1.1, OPENVINO)])
def test_int8_goes_to_the_faster_engine(warm, monkeypatch, speedup, provider):
    """It is measured when the model is loaded."""
    monkeypatch.setattr(cpu_engine, "_speedup", lambda *_: speedup)

    model = warm(AUTO, properties={"precision": "int8"})

    assert (provider, "int8") == (model.provider, model.precision)


def test_a_cpu_whose_maker_lies_elsewhere_is_left_alone(caplog):
    """Nothing is written unless what lies there is what the API says."""
    device = SimpleNamespace(vendor_id=0x1022, type=7, device_id=1)
    before = dict(vars(device))

    openvino._offer_to(device)

    assert before == vars(device)
    assert "keeps a CPU's maker elsewhere; not offered" in caplog.text


@needs_openvino
@pytest.mark.parametrize("precision", ["fp16", "int8", "made up"])
def test_who_asks_for_openvino_gets_it_for_files_of_any_precision(warm, precision):
    """Its answers are compared by what that precision may round."""
    model = warm(ASKED, properties={"precision": precision})

    assert (OPENVINO, precision) == (model.provider, model.precision)


def test_the_settings_are_checked():
    """Another name is refused with those that there are."""
    with pytest.raises(Exception, match="cpu_engine must be one of auto, onnxruntime, openvino"):
        ServerConfig(cpu_engine="tvm")
