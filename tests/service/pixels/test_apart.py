"""Pictures that are decoded in helper processes: same pixels, same sentences, nothing lost."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from service.errors import ImageError
from service.pixels import apart, raster
from service.pixels.apart import Apart
from service.pixels.budget import Budget
from service.pixels.preprocessing import load_square
from tests.service.pixels.pictures import encode, gradient, textured


@pytest.fixture
def helpers(monkeypatch):
    """Give helpers, for pictures of these formats that are much smaller than usual."""
    monkeypatch.setattr(raster, "_FEW_PIXELS", 1000)
    found = Apart()
    yield found
    found.close()


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "PNG"])
def test_a_helper_returns_the_very_pixels(kind, helpers):
    """The same picture, and several after each other: one helper decodes them."""
    for size in (90, 100, 110):
        data = encode(gradient(size, size), kind)
        found = load_square(data, 64, apart=helpers.load_square)
        assert np.array_equal(load_square(data, 64), found)
    assert 1 == helpers._idle.qsize()


def test_only_what_holds_the_lock_goes_to_a_helper(helpers):
    """A small WebP, and a JPEG of any size, are decoded by the thread itself."""
    load_square(encode(gradient(30, 30), "WEBP"), 16, apart=helpers.load_square)
    load_square(encode(gradient(100, 100), "JPEG"), 64, apart=helpers.load_square)
    assert 0 == helpers._idle.qsize()


def test_a_broken_picture_gets_its_sentence_and_the_helper_goes_on(helpers):
    """What the helper refuses is refused as it would be here."""
    whole = encode(textured(100, 100), "WEBP")
    broken = whole[: len(whole) // 2].ljust(len(whole), b"U")
    with pytest.raises(ImageError) as here:
        load_square(broken, 64)
    with pytest.raises(ImageError) as there:
        load_square(broken, 64, apart=helpers.load_square)
    assert (str(here.value), here.value.kind) == (str(there.value), there.value.kind)
    load_square(whole, 64, apart=helpers.load_square)
    assert 1 == helpers._idle.qsize()


def test_its_memory_is_held_with_the_picture(helpers):
    """The process counts, too: where there is too little for both, the picture is refused."""
    budget = Budget(32 * 2**20)
    data = encode(gradient(100, 100), "WEBP")
    load_square(data, 64, budget=budget)
    with pytest.raises(ImageError, match=r"takes \d+ MiB, and at most 32 MiB are given to it"):
        load_square(data, 64, budget=budget, apart=helpers.load_square)


def test_a_helper_that_was_killed_while_idle_is_replaced(helpers):
    """As when it ended by itself after a minute without work."""
    data = encode(gradient(100, 100), "WEBP")
    load_square(data, 64, apart=helpers.load_square)
    process = helpers._idle.queue[0]._process
    process.kill()
    process.wait()
    found = load_square(data, 64, apart=helpers.load_square)
    assert np.array_equal(load_square(data, 64), found)


def test_a_decoder_that_crashes_costs_its_picture_alone(helpers):
    """The sentence tells how the helper ended; the next picture gets another one."""
    data = encode(gradient(100, 100), "WEBP")
    load_square(data, 64, apart=helpers.load_square)
    pid = helpers._idle.queue[0]._process.pid
    os.kill(pid, signal.SIGSTOP)
    found = []

    def ask():
        with pytest.raises(ImageError, match=r"decoder crashed \(exit code -11\); save it again"):
            load_square(data, 64, apart=helpers.load_square)
        found.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)
    asking.join()
    assert [True] == found
    load_square(data, 64, apart=helpers.load_square)


def test_a_decoder_that_hangs_is_ended(helpers, monkeypatch):
    """After its time the picture is refused, and the process is gone."""
    data = encode(gradient(100, 100), "WEBP")
    load_square(data, 64, apart=helpers.load_square)
    process = helpers._idle.queue[0]._process
    monkeypatch.setattr(apart, "_TIMEOUT_S", 0.1)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ImageError, match="takes longer than 0 s: shrink it"):
        load_square(data, 64, apart=helpers.load_square)
    assert process.poll() is not None


def test_a_helper_ends_with_its_server(helpers):
    """Its pipe is closed when the server ends in whichever way."""
    load_square(encode(gradient(100, 100), "WEBP"), 64, apart=helpers.load_square)
    process = helpers._idle.get()._process
    process.stdin.close()
    assert 0 == process.wait(10)
    process.stdout.close()
