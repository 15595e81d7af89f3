"""A model card: what a model learnt from, how well it does and for whom, from a run's files alone.

Made with every release and every export, as Markdown for people and JSON for programs.
"""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data.cache import DatasetCache
from training.errors import TrainingError
from training.evaluation import selective
from training.evaluation.intervals import method
from training.pages.page import percent, span
from training.reports.report import command
from training.reports.run_numbers import numbers_of
from training.runs.run_record import RunRecord

_WEAKEST = 10
_NOT_FOR = (
    "Photos of what is not among its classes: it has no word for them, and may be sure and wrong.",
    "What is in a dish: allergens, ingredients, amounts and calories cannot be read off a photo.",
    "Decisions about people, from what they eat.",
    "Photos from elsewhere than those it was validated on, before it was measured on them.",
)


def card(run_dir: Path, *, min_confidence: float | None = None) -> dict[str, Any]:
    """Return the card of a run's best epoch. Accuracies are fractions, intervals of 95 %.

    Args:
        run_dir: The run directory.
        min_confidence: The threshold that it is released with; None without one.

    Raises:
        RunError: There is no run, or a file of it is damaged.
    """
    record = RunRecord.open(run_dir)
    numbers = numbers_of(record)
    result = record.result or {}
    found = numbers.to_dict(record.labels)
    return {
        "model": {
            "architecture": "resnet18",
            "run_id": record.name,
            "epoch": record.best["epoch"],
            "image_size_px": record.config["image_size"],
            "labels": list(record.labels),
            "dataset_hash": record.dataset_hash,
        },
        "data": _data(record),
        "accuracy": {
            split: {
                "photos": len(given.targets),
                "top1": numbers.scores[split].top1,
                "interval": list(numbers.scores[split].top1_interval),
                "groups": numbers.scores[split].groups,
            }
            for split, given in (("val", record.val), ("test", record.test))
            if given is not None
        },
        "calibration": {
            "temperature": record.temperature,
            "expected_error_before": result.get("ece_before"),
            "expected_error_after": result.get("ece_after"),
        },
        "threshold": None if min_confidence is None else _threshold(record, min_confidence),
        "weakest_classes": [
            {name: row[name] for name in ("label", "support", "recall", "precision")}
            for row in found["per_class"][:_WEAKEST]
        ],
        "confusions": found["confusions"],
        "not_for": list(_NOT_FOR),
        "reproduce": {
            "command": command(record),
            "git_commit": record.git_commit,
            "versions": record.versions,
        },
    }


def as_json(told: dict[str, Any]) -> str:
    """Return a card for programs."""
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def as_markdown(told: dict[str, Any]) -> str:
    """Return a card for people; its head is what a model hub reads."""
    model, accuracy, calibration = told["model"], told["accuracy"], told["calibration"]
    lines = [
        "---", "library_name: timm", "pipeline_tag: image-classification", "tags:",
        "- image-classification", "- food", "---", "",
        f"# {model['run_id']}, epoch {model['epoch']}", "",
        f"A ResNet18 that names {len(model['labels'])} dishes on photos of"
        f" {model['image_size_px']} px. It was trained and exported by Hansang.", "",
        "## How well it does", "",
        "| split | photos | top-1 | 95 % interval | by |", "| --- | --- | --- | --- | --- |",
        *(
            f"| {split} | {of['photos']} | {percent(of['top1'])} | {span(of['interval'])} |"
            f" {method(of['groups'])} |"
            for split, of in accuracy.items()
        ), "",
        "The epoch was chosen on the validation split, which flatters it. The test split chose"
        " nothing.", "",
    ]  # fmt: skip
    if calibration["temperature"] is not None:
        lines += [
            "Confidences are calibrated on the validation split: dividing the logits by"
            f" {calibration['temperature']:.3f} takes the expected calibration error from"
            f" {percent(calibration['expected_error_before'])} to"
            f" {percent(calibration['expected_error_after'])}. The served file does that; bare"
            " weights do not.", "",
        ]  # fmt: skip
    lines += _unsure(told["threshold"])
    lines += _weakest(told)
    lines += ["## What it is not for", "", *(f"- {each}" for each in told["not_for"]), ""]
    lines += _photos(told["data"])
    lines += [
        "## How to make it again", "", "```sh", told["reproduce"]["command"], "```", "",
        f"Code: commit `{told['reproduce']['git_commit'] or 'not known'}`. Photos: SHA-256"
        f" `{model['dataset_hash']}` over split, label and content.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _threshold(record: RunRecord, min_confidence: float) -> dict[str, Any]:
    """Return the threshold, and what is answered of the validation photos; None if nothing is."""
    found = None
    if record.val is not None:
        val = record.val.calibrated(record.temperature or 1.0)
        found = selective.at(min_confidence, val.probabilities.max(1), val.right, val.clusters)
    return {"min_confidence": min_confidence, "answered": found and asdict(found)}


def _unsure(threshold: dict[str, Any] | None) -> list[str]:
    if threshold is None:
        return []
    answered = threshold["answered"]
    found = (
        f" Of the validation photos {percent(answered['coverage'], 0)} reach it, and"
        f" {percent(answered['accuracy'])} of these are right ({span(answered['interval'])})."
        if answered
        else ""
    )
    return [
        f"Answers less probable than {threshold['min_confidence']:g} say `below_threshold`: not"
        f" sure.{found}", "",
    ]  # fmt: skip


def _weakest(told: dict[str, Any]) -> list[str]:
    rows = [
        f"| {_cell(row['label'])} | {row['support']} | {_rate(row['recall'])} |"
        f" {_rate(row['precision'])} |"
        for row in told["weakest_classes"]
    ]
    if not rows:
        return []
    return [
        "## Its weakest classes", "",
        "Of the validation photos, the lowest F1 first, with 95 % intervals.", "",
        "| class | photos | recall | precision |", "| --- | --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def _photos(data: dict[str, Any]) -> list[str]:
    if not data["classes"]:
        return ["## What it learnt from", "", str(data["why_none"]), ""]
    splits = list(data["splits"])
    return [
        "## What it learnt from", "",
        f"| class | {' | '.join(splits)} |", f"| --- |{' --- |' * len(splits)}",
        f"| all | {' | '.join(str(data['splits'][split]) for split in splits)} |",
        *(
            f"| {_cell(label)} | {' | '.join(str(counts.get(split, 0)) for split in splits)} |"
            for label, counts in data["classes"].items()
        ), "",
    ]  # fmt: skip


def _data(record: RunRecord) -> dict[str, Any]:
    """Return photos by split, and by class and split, from the dataset cache if it is there."""
    try:
        cache = DatasetCache.open(record.cache)
        if cache.dataset_hash != record.dataset_hash:
            raise TrainingError("the dataset cache has been made anew from other photos")
    except (TrainingError, OSError) as error:
        return {"splits": {}, "classes": {}, "why_none": f"Not known any more: {error}."}
    counts = {name: Counter(split.targets.tolist()) for name, split in cache.splits.items()}
    return {
        "splits": {name: sum(found.values()) for name, found in counts.items()},
        "classes": {
            label: {name: found[index] for name, found in counts.items()}
            for index, label in enumerate(cache.labels)
        },
        "why_none": None,
    }


def _rate(found: dict[str, float | None]) -> str:
    if found["value"] is None or found["low"] is None or found["high"] is None:
        return "–"
    return f"{percent(found['value'])} ({span((found['low'], found['high']))})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
