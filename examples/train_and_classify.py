"""Train on a folder of photos and classify one of them, without a server.

python examples/train_and_classify.py photos photo.jpg
"""

import sys
from pathlib import Path

from service.models.model import Model
from service.pixels.preprocessing import preprocess
from training import export_onnx, prepare, recipe, train

IMAGE_SIZE = 64
EPOCHS = 2


def main(photos: Path, photo: Path) -> None:
    """Train a run (or go on with it), export its best epoch, and print what it sees."""
    config = recipe("scratch").with_overrides({"image_size": IMAGE_SIZE, "epochs": EPOCHS})
    cache = prepare(photos, config.image_size)
    result = train(config, cache, Path("runs/example"))
    print(f"{result.val_top1:.1%} of the validation photos are right")

    model = Model(export_onnx(result.run_dir, Path("model.onnx")).path)
    pixels = preprocess(photo.read_bytes(), model.metadata.image_size)
    (probabilities,) = model.predict(pixels[None])
    for label, probability in zip(model.metadata.labels, probabilities, strict=True):
        print(f"{probability:6.1%}  {label}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
