"""ResNet18 behind mosec, as its documentation sets it up: a stage that decodes, one that infers."""

import json

import numpy as np
from common import BATCH, CORES, likeliest, pixels, session
from mosec import Server, Worker


class Preprocess(Worker):
    """Bytes to pixels."""

    def deserialize(self, data):
        """Take the body as it is."""
        return data

    def forward(self, data):
        """Decode one image."""
        return pixels(data)


class Inference(Worker):
    """Pixels to classes, in batches."""

    def __init__(self):
        super().__init__()
        self.session = session()

    def forward(self, data):
        """Compute the five likeliest classes of each image."""
        (rows,) = self.session.run(None, {"images": np.stack(data)})
        return [likeliest(row) for row in rows]

    def serialize(self, data):
        """Write JSON."""
        return json.dumps(data).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Preprocess, num=CORES)
    server.append_worker(Inference, num=CORES, max_batch_size=BATCH, max_wait_time=10)
    server.run()
