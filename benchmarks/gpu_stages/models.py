"""What checks and benchmarks on a GPU need of models: files, decoding on the device, a server."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_stages.load import WIDE, raw_request
from benchmarks.gpu_stages.steps import once
from benchmarks.rig import Server
from service.client import Classifier
from service.models.repository import ModelRepository
from service.pb import inference_pb2_grpc as oip_grpc
from service.pixels.preprocessing import PREPROCESSING, resize_size
from training.export.onnx_export import write_onnx
from training.export.quantisation import to_fp16
from training.model.resnet import Served as ServedModel
from training.model.resnet import build

NUM_CLASSES = 42
IMAGE_SIZE = {"cuda": 224, "cpu": 32}


def random_model(folder: Path, precision: str, device: str) -> Path:
    """Return a ResNet18 with random weights in fp32 or fp16; whichever step is first makes it."""
    size = IMAGE_SIZE[device]

    def whole(path: Path) -> None:
        served = ServedModel(build(NUM_CLASSES, seed=0)).eval()
        labels = [f"dish-{number}" for number in range(NUM_CLASSES)]
        write_onnx(served, size, path, properties(labels, size))

    fp32 = once(folder / "fp32.onnx", whole)
    if precision == "fp32":
        return fp32
    return once(folder / "fp16.onnx", lambda path: to_fp16(fp32, path))


def properties(labels: Sequence[str], image_size: int) -> dict[str, str]:
    """Return what a model file must say of itself."""
    return {
        "schema_version": "1",
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "image_size": str(image_size),
        "resize": PREPROCESSING,
    }


def decode_on_device(data: Sequence[bytes], size: int, device: str) -> np.ndarray:
    """Decode JPEGs with torchvision on a device, by nvJPEG on CUDA, and cut as the server does.

    Returns uint8 (N, S, S, 3), in host memory.
    """
    return decoded_tensor(data, size, device).cpu().numpy()


def decoded_tensor(data: Sequence[bytes], size: int, device: str) -> Tensor:
    """Return uint8 (N, S, S, 3) on the device."""
    from torchvision.io import ImageReadMode, decode_jpeg

    # From bytes that cannot be written to torch warns.
    raw = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in data]
    side = resize_size(size)
    squares = []
    for image in decode_jpeg(raw, mode=ImageReadMode.RGB, device=device):
        _, height, width = image.shape
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = image[:, top : top + short, left : left + short].unsqueeze(0).float()
        resized = F.interpolate(square, (side, side), mode="bilinear", antialias=True)
        start = (side - size) // 2
        squares.append(resized[0, :, start : start + size, start : start + size])
    pixels = torch.stack(squares).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


class Serving(Server):
    """A server of one model, and what it said when it was ready."""

    said = ""


@contextlib.contextmanager
def Served(  # noqa: N802  # reads as what it gives
    model: Path, repository: Path, device: str, *flags: str
) -> Iterator[Serving]:
    """Release a model, serve it on a device in a process of its own, and end it."""
    repository.mkdir(exist_ok=True)
    ModelRepository(repository).publish("food", model)
    serving = Serving(repository, "--device", device, "--drain-delay", "0", *flags)
    with serving as server:
        for line in server.logs.read_text().splitlines():
            if line.startswith("serving "):
                server.said = line
        yield server
        server.stop()


def infer(port: int, images_NHWC: np.ndarray) -> np.ndarray:
    """Return the probabilities that a server answers raw pixels with."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=WIDE) as channel:
        answer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            raw_request(images_NHWC), timeout=60
        )
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(images_NHWC), -1)


def classify(port: int, photos: Sequence[bytes]) -> list[str]:
    """Return the likeliest class of each photo, as a server says."""
    with Classifier(f"127.0.0.1:{port}") as classifier:
        return [answer.classes[0].label for answer in classifier.classify(list(photos), 1)]
