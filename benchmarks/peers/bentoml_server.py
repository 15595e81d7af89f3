"""ResNet18 behind BentoML with adaptive batching, over HTTP: only its old services speak gRPC."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from common import BATCH, CORES, PORT, cropped, likeliest, session
from PIL.Image import Image


@bentoml.service(
    workers=CORES,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Food:
    """JPEGs to classes, in batches; a worker computes one at a time."""

    def __init__(self):
        self._session = session()

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def classify(self, images: list[Image]) -> list[list[list[float]]]:
        """Answer a batch of images, which are parts of forms."""
        (rows,) = self._session.run(None, {"images": np.stack([cropped(each) for each in images])})
        return [likeliest(row) for row in rows]


if __name__ == "__main__":
    here = Path(__file__)
    command = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Food"]
    command += ["--working-dir", str(here.parent), "--host", "127.0.0.1", "--port", str(PORT)]
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "True"}
    os.execve(sys.executable, command, environment)  # noqa: S606  # a shell would be one more process
