"""What every peer does alike: the same file, the same onnxruntime options, the same size.

Decoding is Pillow's, as in the peers' own examples. Nothing of Hansang is imported: this runs in an
environment that has the peers alone. ENGINE=openvino gives all of them the engine of `auto`.
"""

import ctypes
import io
import json
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
    if os.environ.get("ENGINE") == "openvino":
        return _by_openvino()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def _by_openvino() -> onnxruntime.InferenceSession:
    """Open the model in OpenVINO's plugin, in bf16, with the options that Hansang has."""
    import onnxruntime_ep_openvino

    name = "OpenVINOExecutionProvider"
    device = onnxruntime.get_ep_devices()[0].device
    if device.vendor_id != 0x8086:
        # The plugin offers itself to Intel's CPUs alone: service/sessions/openvino.py.
        address = ctypes.c_void_p.from_address(id(device) + 16).value
        words = (ctypes.c_uint32 * 3).from_address(address)
        assert words[1] == device.vendor_id
        words[1] = 0x8086
    library = onnxruntime_ep_openvino.get_library_path()
    onnxruntime.register_execution_provider_library(name, library)
    options = onnxruntime.SessionOptions()
    how = {
        "INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": str(CORES),
        "INFERENCE_NUM_THREADS": str(CORES), "ENABLE_CPU_PINNING": "NO",
    }  # fmt: skip
    found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == name][:1]
    options.add_provider_for_devices(found, {"load_config": json.dumps({"CPU": how})})
    return onnxruntime.InferenceSession(MODEL, options)


def pixels(data: bytes) -> np.ndarray:
    """Decode, resize the shorter side, crop the centre: (S, S, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return cropped(image)


def cropped(image: Image.Image) -> np.ndarray:
    """Do so with an opened image."""
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
