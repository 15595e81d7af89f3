"""What is sent, or done, to bring a server down: it refuses what it must, and goes on."""

import asyncio
import signal

from service.pb import classifier_pb2 as pb


async def test_a_process_that_stood_still_takes_calls_again(publish, process, connect, photo):
    """After a standstill in mid-work, the idle server admits a call of 16 with a deadline."""
    publish("food", loops=5_000)
    server = process(max_batch=4)
    stub = connect(server.port)
    request = pb.ClassifyRequest(images=[photo("red")] * 16, top_k=1)
    await stub.Classify(request, timeout=20)
    calls = [asyncio.ensure_future(stub.Classify(request, timeout=60)) for _ in range(8)]
    await asyncio.sleep(0.05)
    server.send_signal(signal.SIGSTOP)
    await asyncio.sleep(6)
    server.send_signal(signal.SIGCONT)
    await asyncio.gather(*calls)
    for _ in range(3):
        # Its deadline is far below what the standstill would have taught of 16 images.
        await stub.Classify(request, timeout=1.5)
