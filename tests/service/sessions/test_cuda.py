"""What serves on a CUDA device: the same code on a CPU, without graphs; and with a device, all."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest

from service.config import ServerConfig
from service.devices import num_gpus
from service.errors import InvalidArgumentError, ModelContractError
from service.models.model import Model
from service.sessions.cuda import CudaOptions, CudaSessions, SharedLock, sizes_up_to
from service.sessions.opening import CUDA

gpu = pytest.mark.gpu
# Drivers and compilers warn of much that is no fault of a test.
lenient = pytest.mark.filterwarnings("default")
needs_gpu = pytest.mark.skipif(
    CUDA not in ort.get_available_providers() or not num_gpus(),
    reason="no CUDA device, or an onnxruntime without CUDA",
)


def images(count: int, *, seed: int = 0) -> np.ndarray:
    """Return pictures of noise for the tiny model."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def session(path) -> ort.InferenceSession:
    """Open a model on the CPU."""
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_batch_is_filled_up_and_answered_as_if_it_were_not(tiny_onnx, tmp_path):
    """Every count of images gets the rows that a plain run gives, whatever ran before."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    plain = session(path)
    sessions = CudaSessions(
        [(session(path), 0), (session(path), 0)], (8, 8, 3), 3, 12, device="cpu", graphs=False
    )

    answers = [(count, sessions.run(images(count, seed=count))) for count in (12, 5, 7, 1, 11)]

    assert (1, 2, 3, 4, 6, 8, 12) == sessions.sizes
    for count, rows in answers:
        (expected,) = plain.run(None, {"images": images(count, seed=count)})
        assert (count, 3) == rows.shape
        assert np.allclose(expected, rows, atol=1e-6)


def test_sessions_answer_several_threads_at_once(tiny_onnx, tmp_path):
    """Eight threads through two sessions: each gets the rows of its own images."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    plain = session(path)
    sessions = CudaSessions(
        [(session(path), 0), (session(path), 0)], (8, 8, 3), 3, 8, device="cpu", graphs=False
    )

    with ThreadPoolExecutor(8) as callers:
        rows = list(
            callers.map(lambda seed: sessions.run(images(1 + seed % 8, seed=seed)), range(64))
        )

    for seed, row in enumerate(rows):
        (expected,) = plain.run(None, {"images": images(1 + seed % 8, seed=seed)})
        assert np.allclose(expected, row, atol=1e-6)


def test_a_model_that_is_let_go_ends_its_threads(tiny_onnx, tmp_path):
    """Nothing of a session is left when its model was swapped out."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    before = set(threading.enumerate())
    sessions = CudaSessions([(session(path), 0)], (8, 8, 3), 3, 4, device="cpu", graphs=False)
    started = set(threading.enumerate()) - before

    del sessions

    assert ["cuda_0"] == [thread.name for thread in started]
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()


def test_an_exclusive_lock_is_held_alone():
    """It waits for those who share the lock, and keeps others out until it is released."""
    lock, seen = SharedLock(), []
    entered, leave = threading.Event(), threading.Event()

    def inside():
        with lock.shared():
            entered.set()
            leave.wait(10)
            seen.append("left")

    def capture():
        with lock.exclusive(), lock.shared():
            seen.append("alone")

    threads = [threading.Thread(target=inside), threading.Thread(target=capture)]
    threads[0].start()
    entered.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)

    assert ["left", "alone"] == seen


def test_sizes_waste_a_third_at_most():
    """A batch is filled up by less than half of itself; the largest is as told."""
    for largest in (1, 24, 32, 100, 256):
        sizes = sizes_up_to(largest)
        assert largest == sizes[-1]
        assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))


class OpenedError(Exception):
    """A session would have been opened with these options."""


@pytest.fixture
def two_gpus(monkeypatch):
    """Stand for a machine with two GPUs; what onnxruntime is asked for is raised."""

    def opened(path, options, *, providers, enable_fallback):
        try:
            alone = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        except RuntimeError:  # it was not set
            alone = "0"
        raise OpenedError(providers, alone, enable_fallback)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", opened)
    monkeypatch.setattr("service.sessions.opening.num_gpus", lambda: 2)


def asked(device: str) -> tuple[str, list[object], str, int]:
    """Return the GPU's index, the providers, and whether others may compute a part."""
    with pytest.raises(ModelContractError) as caught:
        Model("model.onnx", device=device, cuda=CudaOptions(graphs=False))
    ((name, options), *others), alone, fallback = caught.value.__cause__.args
    assert CUDA == name
    return options["device_id"], others, alone, fallback


def test_a_gpu_that_was_asked_for_computes_all_of_it(two_gpus):
    """With `cuda` and `cuda:1` onnxruntime may give no node to the CPU; with `auto` it may."""
    assert ("0", [], "1", 0) == asked("cuda")
    assert ("1", [], "1", 0) == asked("cuda:1")
    assert ("0", ["CPUExecutionProvider"], "0", 1) == asked("auto")


def test_a_gpu_that_is_not_there_is_told(two_gpus):
    """The sentence says which there are; so does that of a device that is none."""
    with pytest.raises(ModelContractError, match="cuda:2: this machine has 2 GPUs, cuda:0 to"):
        Model("model.onnx", device="cuda:2")
    for wrong in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1"):
        with pytest.raises(InvalidArgumentError, match="auto, cpu, cuda or cuda:N"):
            ServerConfig(device=wrong)
    assert "cuda:1" == ServerConfig(device="cuda:1").device


@gpu
@lenient
@needs_gpu
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
def test_cuda_answers_as_the_cpu(tiny_onnx, tmp_path, graphs):
    """The CUDA provider is in use, and every size gives the CPU's rows, graphs or not, twice."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    plain = session(path)
    model = Model(path, device="cuda", cuda=CudaOptions(graphs=graphs))
    assert graphs == model._cuda.graphs
    model.warm_up(16)

    for count in (1, 5, 16, 5, 40, 1):
        (expected,) = plain.run(None, {"images": images(count, seed=count)})
        assert np.allclose(expected, model.predict(images(count, seed=count)), atol=1e-4)

    assert CUDA == model.provider


@gpu
@lenient
@needs_gpu
def test_a_model_is_captured_while_another_serves(tiny_onnx, tmp_path):
    """Calls go on, with right answers, while a new version captures its graphs."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    serving = Model(path, device="cuda")
    serving.warm_up(8)
    (expected,) = session(path).run(None, {"images": images(8)})
    over, wrong, calls = threading.Event(), [], []

    def call():
        while not over.is_set():
            try:
                rows = serving.predict(images(8))
                calls.append(1)
                if not np.allclose(expected, rows, atol=1e-4):
                    wrong.append(rows)
            except Exception as error:  # whatever it is, it must not be
                wrong.append(error)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for _ in range(3):
        Model(path, device="cuda").warm_up(32)
    over.set()
    for caller in callers:
        caller.join(30)

    assert calls
    assert not wrong
