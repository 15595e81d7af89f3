"""How well a review finds labels that were flipped on purpose, beside simpler ways.

    python -m benchmarks.learning.review DATA [--share 0.08] [--pairs REVIEW.json] [--seed 0]
    python -m benchmarks.learning.review DATA --strangers OTHER --won-back

A copy of DATA gets the flips, and with --strangers 20 photos of another folder, which are of no
class; and `hansang review` judges it. Beside its ranking stand: the
self-confidence of the same out-of-fold probabilities, which is cleanlab's own default (asked of
cleanlab where it is installed: pip install cleanlab); their margin; and the largest loss of one
ordinary run, which learned most of the wrong labels itself. Flips and strangers are ranked apart,
each without the others.

--won-back trains three runs: with the flips, with the flips among the top tenth of the ranking put
right, and with none. All three are validated with the labels of DATA.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ of class folders.")],
    share: Annotated[float, typer.Option(min=0, max=0.5, help="Labels to flip.")] = 0.08,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Flip between classes that this review.json pairs, not at random."),
    ] = None,
    strangers: Annotated[
        Path | None, typer.Option(help="Plant 20 photos of this folder as well.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the flips.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs a fold.")] = 20,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    one_run: Annotated[bool, typer.Option(help="Train the one run as well.")] = True,
    won_back: Annotated[
        bool, typer.Option("--won-back", help="Train what corrections gain, too.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="Keep everything here; given again, it goes on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plant wrong labels, review, and say how high they rank."""
    settings = {"epochs": epochs, "image_size": image_size, "threads": threads}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        place = work or Path(temporary)
        flipped = plant(data, place / "photos", share=share, pairs=pairs, seed=seed)
        strange = plant_strangers(strangers, place / "photos", seed=seed) if strangers else set()
        reviewed(place, **settings)
        rankings = out_of_fold(place)
        if one_run:
            rankings["largest loss of one run"] = losses(place, **settings)
        told: dict[str, Any] = {
            "epochs": epochs, "image_size": image_size, "seed": seed,
            "flipped": ranked(rankings, set(flipped), strange),
            "strangers": ranked(rankings, strange, set(flipped)),
        }  # fmt: skip
        if won_back:
            first = top(rankings["review"], 0.1)
            told["accuracy"] = corrected(data, place, flipped, first, seed=seed, **settings)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"{epochs} epochs a fold at {image_size} px")
    for kind, count in (("flipped", len(flipped)), ("strangers", len(strange))):
        for name, row in told[kind].items():
            told_row = "  ".join(f"{what} {value:.3f}" for what, value in row.items())
            print(f"{count} {kind:10s} {name:40s} {told_row}")
    for name, accuracy in told.get("accuracy", {}).items():
        print(f"trained with the labels {name:10s} accuracy {accuracy:.2%}")


def ranked(
    rankings: Mapping[str, Mapping[str, float]], planted: set[str], other: set[str]
) -> dict[str, dict[str, float]]:
    """Return how high the planted photos rank by each way, without the `other` planted ones."""
    if not planted:
        return {}
    return {
        name: figures({photo: scores[photo] for photo in scores if photo not in other}, planted)
        for name, scores in rankings.items()
    }


def top(scores: Mapping[str, float], share: float) -> set[str]:
    """Return the most suspicious photos, that share of all of them."""
    order = sorted(scores, key=lambda photo: -scores[photo])
    return set(order[: round(share * len(order))])


def plant(data: Path, out: Path, *, share: float, pairs: Path | None, seed: int) -> dict[str, str]:
    """Copy a folder with a share of its labels flipped; return the flipped photos' true names."""
    rng = random.Random(seed)
    photos = sorted(path for path in data.glob("*/*/*") if path.is_file())
    labels = sorted({path.parent.name for path in photos})
    others = {label: [other for other in labels if other != label] for label in labels}
    if pairs is not None:
        paired = json.loads(pairs.read_text("utf-8"))["pairs"]
        alike = {label: [p["suggested"] for p in paired if p["label"] == label] for label in labels}
        others = {label: alike[label][:1] or others[label] for label in labels}
    flipped = set(rng.sample(range(len(photos)), round(share * len(photos))))
    planted = {}
    for number, photo in enumerate(photos):
        label, name = photo.parent.name, photo.name
        if number in flipped:
            label, name = rng.choice(others[label]), f"flipped-{number}{photo.suffix}"
            planted[f"{photo.parent.parent.name}/{label}/{name}"] = str(photo.relative_to(data))
        _copy(photo, out / photo.parent.parent.name / label / name)
    return planted


def plant_strangers(source: Path, out: Path, *, seed: int, count: int = 20) -> set[str]:
    """Copy photos of another folder into classes of train; return their new names."""
    rng = random.Random(seed)
    photos = rng.sample(sorted(path for path in source.rglob("*") if path.is_file()), count)
    labels = sorted(path.name for path in (out / "train").iterdir())
    planted = set()
    for number, photo in enumerate(photos):
        name = f"train/{rng.choice(labels)}/stranger-{number}{photo.suffix}"
        shutil.copyfile(photo, out / name)
        planted.add(name)
    return planted


def reviewed(place: Path, **options: int) -> None:
    """Run the verb in the working folder."""
    told = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    subprocess.run(
        [sys.executable, "-m", "hansang", "review", "photos", "--run", "review", *told],
        cwd=place, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def out_of_fold(place: Path) -> dict[str, dict[str, float]]:
    """Return the scores of the review, and of simpler ways on the same probabilities."""
    suspects = json.loads((place / "photos-review" / "review.json").read_text("utf-8"))["suspects"]
    review = {one["photo"]: one["score"] for one in suspects if one["kind"] == "label"}
    files, targets, rows = [], [], []
    for run in sorted((place / "runs" / "review").glob("fold-*")):
        with np.load(run / "predictions-val.npz") as held:
            files += held["files"].tolist()
            targets.append(held["targets"])
            rows.append(held["probabilities"])
    labels, probabilities = np.concatenate(targets), np.concatenate(rows).astype(np.float64)
    own = probabilities[np.arange(len(labels)), labels]
    rest = probabilities.copy()
    rest[np.arange(len(labels)), labels] = -1
    ways = {"self-confidence": 1 - own, "margin": rest.max(1) - own}
    try:
        from cleanlab.rank import get_label_quality_scores
    except ModuleNotFoundError:
        print("cleanlab is not installed; its own scores are left out", file=sys.stderr)
    else:
        ways["cleanlab"] = 1 - get_label_quality_scores(labels, probabilities)
    outliers = {one["photo"]: one["score"] for one in suspects if one["kind"] == "outlier"}
    ways["outliers"] = np.array([outliers.get(photo, 0) for photo in files])
    rankings = {name: _by(files, scores) for name, scores in ways.items()}
    return {"review": {photo: review.get(photo, 0) for photo in files}, **rankings}


def losses(place: Path, *, epochs: int, image_size: int, threads: int) -> dict[str, float]:
    """Train one ordinary run on the same photos; return its loss on each, learned or not."""
    from training.data.prepare import prepare
    from training.loop.trainer import train
    from training.recipes import scratch
    from training.review.folds import everything
    from training.review.out_of_fold import features_of
    from training.runs import checkpoint

    cache = prepare(place / "photos", image_size, cache_root=place / "cache")
    settings = {"epochs": epochs, "image_size": image_size, "threads": threads}
    run = place / "runs" / "one"
    train(scratch().with_overrides(settings), cache, run, device="cpu")
    photos, _ = everything(cache)
    tensors, _ = checkpoint.load(run / "checkpoints" / checkpoint.BEST)
    head = checkpoint.model_tensors(tensors)
    logits = features_of(run, cache, photos) @ head["fc.weight"].numpy().T + head["fc.bias"].numpy()
    logits -= logits.max(1, keepdims=True)
    log_odds = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return _by(list(photos.files), -log_odds[np.arange(len(photos.files)), photos.targets])


def corrected(
    data: Path,
    place: Path,
    flipped: Mapping[str, str],
    first: set[str],
    *,
    epochs: int,
    image_size: int,
    threads: int,
    seed: int,
) -> dict[str, float]:
    """Return the accuracy on DATA's validation photos, by the labels that were trained on."""
    from training.data.prepare import prepare
    from training.loop.trainer import train
    from training.recipes import scratch

    found = {}
    settings = {"epochs": epochs, "image_size": image_size, "threads": threads, "seed": seed}
    wrong = {"flipped": set(flipped), "corrected": set(flipped) - first, "clean": set()}
    for name, still in wrong.items():
        folder = place / name
        for photo in sorted((place / "photos" / "train").glob("*/*")):
            here = photo.relative_to(place / "photos").as_posix()
            _copy(photo, folder / (here if here in still else flipped.get(here, here)))
        for photo in sorted((data / "val").glob("*/*")):
            _copy(photo, folder / photo.relative_to(data))
        cache = prepare(folder, image_size, cache_root=place / "cache")
        config = scratch().with_overrides(settings)
        found[name] = train(config, cache, place / "runs" / name, device="cpu").val_top1
    return found


def _copy(photo: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target)


def figures(scores: Mapping[str, float], planted: set[str]) -> dict[str, float]:
    """Return how high the planted ones rank; k is their number."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    names = sorted(scores)
    truth = np.array([name in planted for name in names])
    values = np.array([scores[name] for name in names])
    first = np.argsort(-values, kind="stable")[: len(planted)]
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "average_precision": float(average_precision_score(truth, values)),
        "precision_at_k": float(truth[first].mean()),
    }


def _by(files: list[str], scores: Any) -> dict[str, float]:
    return dict(zip(files, np.asarray(scores, float).tolist(), strict=True))


if __name__ == "__main__":
    typer.run(main)
