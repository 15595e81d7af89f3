"""ResNet18 in a runtime of MLServer, with its adaptive batching, over the Open Inference Protocol.

Models are in its own process, whose threads decode and compute: it hands batches to a thread, and
would send them as pickles to workers of its own.
"""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvloop
from common import BATCH, CORES, PORT, likeliest, pixels, session
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceResponse, ResponseOutput


class Runtime(MLModel):
    """JPEGs to classes, in batches."""

    async def load(self):
        """Open the model."""
        self._session = session()
        self._threads = ThreadPoolExecutor(CORES)
        return True

    async def predict(self, payload):
        """Answer a batch, whose only input has a photo in each element."""
        photos = payload.inputs[0].data.root
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._classify, photos)
        output = ResponseOutput(name="classes", shape=[len(found), 1], datatype="BYTES", data=found)
        return InferenceResponse(model_name=self.name, outputs=[output])

    def _classify(self, photos):
        (rows,) = self._session.run(None, {"images": np.stack([pixels(each) for each in photos])})
        return [json.dumps(likeliest(row)).encode() for row in rows]


async def main():
    """Serve until the process is ended."""
    settings = Settings(
        debug=False, parallel_workers=0, metrics_endpoint=None, host="127.0.0.1", grpc_port=PORT,
        http_port=int(os.environ["SECOND_PORT"]),
    )  # fmt: skip
    # Batches of all 32 callers would leave one core idle.
    model = ModelSettings(
        name="food", implementation=Runtime, max_batch_size=BATCH // CORES, max_batch_time=0.01
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    uvloop.run(main())
