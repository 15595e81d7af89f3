"""A model on any folder of photos, by the answers that it would serve.

photos ─► groups ─► the service's pixels and model ─► metrics ─► numbers, page
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terminal import Progress, UserError, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from photo_folder.found import Found, Scanned
    from service.models.model import Model
    from training.evaluation.metrics import Predictions
    from training.reports.compare import Delta

_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A model's answers to the photos of a folder."""

    name: str
    labels: tuple[str, ...]
    """The model's classes."""
    predictions: "Predictions"
    split: str
    """test, or val without it; all where photos are in no splits."""
    left_out: dict[str, str]
    """Name of a photo that counts for nothing → why."""

    def to_dict(self) -> dict[str, Any]:
        """Return every number, ready for JSON."""
        from training.evaluation import metrics
        from training.evaluation.intervals import method
        from training.reports.run_numbers import class_rows, confusions

        found = metrics.scores(self.predictions)
        matrix = self.matrix()
        classes = metrics.per_class(matrix, metrics.designs_of(self.predictions, len(self.labels)))
        there = [row for row in class_rows(classes, self.labels) if row["support"]]
        return {
            "model": self.name,
            "split": self.split,
            **asdict(found),
            "intervals": method(found.groups),
            "per_class": there,
            "confusions": confusions(matrix, self.labels),
            "left_out": self.left_out,
        }

    def matrix(self) -> "NDArray[np.int64]":
        """Return photos by true (rows) and predicted class, [K, K]."""
        from training.evaluation import metrics

        found = self.predictions
        return metrics.confusion(found.targets, found.predicted, len(self.labels))


def open_model(source: str, repository: Path) -> "tuple[str, Model]":
    """Open a run directory, an ONNX file, or a released MODEL[:VERSION], as the service does.

    Raises:
        UserError: There is none of that name, or it cannot be served.
    """
    from service.errors import NotFoundError, ServiceError
    from service.models.model import Model
    from service.models.repository import ModelRepository
    from training.buckets import mirror
    from training.export.onnx_export import export_onnx

    place = Path(source)
    if place.suffix != ".onnx" and (mirror.pull(place) / "config.json").is_file():
        run_dir = mirror.pull(place)
        place = run_dir / "export" / "evaluated.onnx"
        place.parent.mkdir(exist_ok=True)
        export_onnx(run_dir, place)
    elif place.suffix != ".onnx":
        model, _, version = source.partition(":")
        try:
            known = ModelRepository(repository)
            place = known.path(model, int(version) if version else known.serving(model))
        except (NotFoundError, ValueError) as error:
            raise UserError(
                f"{source!r} is no run directory, no ONNX file and no model in {repository}:"
                f" {error}"
            ) from error
    try:
        return source, Model(place, device="cpu")
    except ServiceError as error:
        raise UserError(f"{source} cannot be evaluated: {error}") from error


def evaluate(
    name: str, model: "Model", found: "Scanned", progress: Progress = no_progress
) -> Evaluated:
    """Answer the held-out photos of a folder, or all of one without splits.

    Raises:
        UserError: No photo of the folder is of a class that the model knows, or can be read.
    """
    from training.evaluation.metrics import Predictions

    split, photos = held_out(found)
    labels = model.metadata.labels
    target_of = {label: target for target, label in enumerate(labels)}
    left_out = {
        photo.name: f"the model has no class {photo.label!r}"
        for photo in photos
        if photo.label not in target_of
    }
    asked = [photo for photo in photos if photo.name not in left_out]
    rows, answered = [], []
    for photo, answer in zip(asked, _answers(model, found.root, asked, progress), strict=True):
        if isinstance(answer, str):
            left_out[photo.name] = answer
        else:
            answered.append(photo)
            rows.append(answer)
    if not rows:
        why = next(iter(left_out.values()), "it is empty")
        raise UserError(f"no {split} photo of {found.root} can be evaluated: {why}")
    groups = tuple(photo.group for photo in answered)
    return Evaluated(
        name=name,
        labels=tuple(labels),
        predictions=Predictions(
            np.stack(rows),
            np.array([target_of[photo.label] for photo in answered], np.int64),
            tuple(photo.name for photo in answered),
            groups if any(groups) else (),
        ),
        split=split,
        left_out=left_out,
    )


def held_out(found: "Scanned") -> "tuple[str, list[Found]]":
    """Return the test photos; without any those of val; all of a folder without splits."""
    for split in ("test", "val"):
        if photos := [photo for photo in found.photos if photo.split == split]:
            return split, photos
    return "all", list(found.photos)


def compared(first: Evaluated, second: Evaluated) -> "Delta":
    """Return by how much the second is right more often, on the photos that both answered."""
    from training.evaluation.clusters import Clusters
    from training.reports.compare import difference

    rights = [
        dict(zip(each.predictions.files, each.predictions.right.tolist(), strict=True))
        for each in (first, second)
    ]
    shared = [file for file in first.predictions.files if file in rights[1]]
    group_of = dict(zip(first.predictions.files, first.predictions.groups, strict=False))
    clusters = Clusters.of([group_of.get(file, "") for file in shared])
    one, other = (np.array([right[file] for file in shared], bool) for right in rights)
    return difference(one, other, clusters=(clusters, clusters))


def _answers(
    model: "Model", root: Path, photos: "Sequence[Found]", progress: Progress
) -> "list[NDArray[np.float32] | str]":
    """Return the probabilities (K,) for each photo, or why it cannot be read; a batch at a time."""
    from service.pixels.preprocessing import ImageError, preprocess

    def pixels(photo: "Found") -> "NDArray[np.uint8] | str":
        try:
            return preprocess((root / photo.name).read_bytes(), model.metadata.image_size)
        except (ImageError, OSError) as error:
            return str(error)

    found: list[NDArray[np.float32] | str] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode") as pool:
        for start in range(0, len(photos), _BATCH):
            squares = list(pool.map(pixels, photos[start : start + _BATCH]))
            good = [square for square in squares if not isinstance(square, str)]
            rows = iter(model.predict(np.stack(good)) if good else ())
            found += [square if isinstance(square, str) else next(rows) for square in squares]
            progress(len(found), len(photos))
    return found
