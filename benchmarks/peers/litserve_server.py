"""ResNet18 behind LitServe, as its documentation sets up an image model with batching."""

import base64

import litserve
import numpy as np
from common import BATCH, CORES, PORT, likeliest, pixels, session


class Api(litserve.LitAPI):
    """Decode, batch, predict, take apart, encode."""

    def setup(self, device):
        """Open the model, once in each worker."""
        del device
        self.session = session()

    def decode_request(self, request):
        """Take the image out of the JSON."""
        return pixels(base64.b64decode(request["image"]))

    def batch(self, inputs):
        """Stack the images of a batch."""
        return np.stack(inputs)

    def predict(self, images):
        """Compute probabilities."""
        return self.session.run(None, {"images": images})[0]

    def unbatch(self, output):
        """Take the rows of a batch apart."""
        return list(output)

    def encode_response(self, row):
        """Give the five likeliest classes."""
        return {"classes": likeliest(row)}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES, timeout=60)
    server.run(
        host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False,
        log_level="warning",
    )  # fmt: skip
