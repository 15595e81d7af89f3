"""Photos that the batcher takes as they came, and decodes in the thread that computes them."""

import io
import os
import threading
from functools import partial

import numpy as np
from PIL import Image

from service.batching.batcher import Batcher
from service.batching.decoder import decoded
from service.errors import ImageError
from service.observability.metrics import Metrics
from service.pixels.budget import Budget
from service.pixels.jpeg_header import small

BUDGET = Budget(2**20)


async def test_small_photos_are_decoded_by_the_thread_that_computes_them(photo):
    """They may come as they are, beside pixels; a broken one gets its error, and spares the others.

    A run of nothing but broken ones does not reach the model.
    """
    threads = []

    def predict(images_NHWC):
        threads.append((threading.current_thread(), len(images_NHWC)))
        return images_NHWC[:, 0, 0].astype(np.float32)

    def decode(data):
        threads.append((threading.current_thread(), 0))
        return decoded(data, 8, metrics, budget=BUDGET)

    metrics = Metrics()
    queue = Batcher(predict, metrics=metrics, decode=decode)
    red, blue, cut = photo("red"), photo("blue"), photo("red", size=(64, 64))[:-40]
    pixels = decoded(photo("green"), 8, Metrics(), budget=BUDGET)
    stages = {}
    rows = await queue.submit([small(red), pixels, small(cut), small(blue)], stages=stages)
    assert [0, 1, 2] == [int(rows[at].argmax()) for at in (0, 1, 3)]
    assert isinstance(rows[2], ImageError)
    assert [0, 0, 0, 3] == [count for _, count in threads]
    assert 1 == len({thread for thread, _ in threads})
    assert ["queue", "decode", "compute"] == sorted(stages, key=lambda name: stages[name])
    (alone,) = await queue.submit([small(cut)])
    assert isinstance(alone, ImageError)
    assert 5 == len(threads)
    await queue.close()


async def test_only_what_is_decoded_quickly_is_taken_as_it_came(photo):
    """Large photos, heavy ones and rare kinds could hold up a whole batch: others decode them."""
    decode = partial(decoded, image_size=8, metrics=Metrics(), budget=BUDGET)
    queue = Batcher(lambda images: images, metrics=Metrics(), decode=decode)
    noise = io.BytesIO()
    side = 600
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(
        noise, "JPEG", quality=95
    )
    assert queue.to_decode(photo("red"))
    assert not queue.to_decode(photo("red", size=(2000, 1001)))
    assert not queue.to_decode(noise.getvalue())
    assert not queue.to_decode(photo("red", kind="PNG"))
    assert not queue.to_decode(b"")
    await queue.close()
    queue = Batcher(lambda images: images, metrics=Metrics())
    assert not queue.to_decode(photo("red"))
    await queue.close()
