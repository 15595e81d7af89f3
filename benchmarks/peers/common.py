"""What every peer does alike: the same file, the same onnxruntime options, the same size.

Decoding is Pillow's, as in the peers' own examples. Nothing of Hansang is imported: this runs in an
environment that has the peers alone.
"""

import io
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from PIL import Image

MODEL = os.environ["MODEL"]
SIZE = int(os.environ["SIZE"])
PORT = int(os.environ["PORT"])
CORES = len(os.sched_getaffinity(0))
BATCH = 32


def session() -> onnxruntime.InferenceSession:
    """Open the model: one thread, which does not spin while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def pixels(data: bytes) -> np.ndarray:
    """Decode, resize the shorter side, crop the centre: (S, S, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        side = round(SIZE * 256 / 224)
        image.draft("RGB", (side, side))
        image = image.convert("RGB")
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def likeliest(row: np.ndarray) -> list[list[float]]:
    """Return the five likeliest classes and their probabilities."""
    return [[int(index), float(row[index])] for index in np.argsort(-row)[:5]]
