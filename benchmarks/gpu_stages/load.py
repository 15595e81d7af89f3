"""One process that calls a server as fast as it answers, with some calls in flight; prints JSON.

    python -m benchmarks.gpu_stages.load PORT raw|jpeg --images 64 --size 224 --in-flight 2

It says 'ready' once it has had an answer, and begins at the time (in seconds since 1970) that it
reads: several of them begin together, however long each took to start.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import grpc
import numpy as np

from benchmarks.rig import photos
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc
from service.pb import inference_pb2 as oip
from service.pb import inference_pb2_grpc as oip_grpc

WIDE = [
    ("grpc.max_receive_message_length", 2**26),
    ("grpc.max_send_message_length", 2**26),
    ("grpc.enable_http_proxy", 0),
]


def raw_request(images_NHWC: np.ndarray) -> Any:
    """Return a request of the Open Inference Protocol with raw pixels."""
    request = oip.ModelInferRequest(model_name="food")
    request.inputs.add(name="images", datatype="UINT8", shape=images_NHWC.shape)
    request.raw_input_contents.append(images_NHWC.tobytes())
    return request


async def load(chosen: argparse.Namespace) -> dict[str, Any]:
    """Call until the time is over; count what was answered within it."""
    # A connection for each call in flight: each replica gets some.
    local = [*WIDE, ("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{chosen.port}", options=local)
            )
            for _ in range(chosen.in_flight)
        ]
        calls: list[Any]
        if chosen.kind == "raw":
            random = np.random.default_rng(0)
            shape = (chosen.images, chosen.size, chosen.size, 3)
            request = raw_request(random.integers(0, 256, shape, dtype=np.uint8))
            calls = [oip_grpc.GRPCInferenceServiceStub(each).ModelInfer for each in channels]
        else:
            encoded = photos(chosen.images, size=(chosen.photo, chosen.photo))
            request = pb.ClassifyRequest(images=encoded, top_k=1)
            calls = [pb_grpc.ClassifierStub(each).Classify for each in channels]
        await asyncio.gather(*(call(request, timeout=60) for call in calls))
        print("ready", flush=True)
        begin_s, took, failed = float(sys.stdin.readline()), [], 0
        await asyncio.sleep(max(begin_s - time.time(), 0))

        async def again(call: Any) -> None:
            nonlocal failed
            while (now_s := time.time()) < begin_s + chosen.seconds:
                try:
                    await call(request, timeout=60)
                except grpc.aio.AioRpcError:
                    failed += 1
                    continue
                if time.time() <= begin_s + chosen.seconds:
                    took.append(time.time() - now_s)

        await asyncio.gather(*(again(call) for call in calls))
    return {"calls": len(took), "failed": failed, "took_s": took}


def main() -> None:
    """Read the command line, load, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=("raw", "jpeg"))
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--photo", type=int, default=500)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    print(json.dumps(asyncio.run(load(parser.parse_args()))))


if __name__ == "__main__":
    main()
