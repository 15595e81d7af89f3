"""Prefect artifacts of runs, data sheets and releases: summaries, curves, tables, links."""

import base64
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.logging import get_run_logger

from flows.release_gate.candidate import Candidate, Release
from flows.tasks.links import link

_CURVES = ("accuracy", "loss")


def or_warn(what: str, publish: Callable[[], object], pauses_s: Sequence[float] = (5, 20)) -> None:
    """Publish something; what fails is tried again after each of the pauses, and then logged.

    What a flow did must not fail because it cannot be shown.
    """
    logger = get_run_logger()
    for pause_s in (*pauses_s, None):
        try:
            publish()
            return
        except Exception as error:
            if pause_s is None:
                logger.warning("%s was not published: %s", what, error)
                return
            logger.info("%s was not published yet: %s", what, error)
            time.sleep(pause_s)


def publish_run(run_dir: Path) -> None:
    """Publish a run: summary as markdown, curves as images, classes and epochs as tables, links."""
    from training.reports import report
    from training.reports.run_numbers import class_rows, numbers_of
    from training.runs.run_record import RunRecord

    record = RunRecord.open(run_dir)
    numbers = numbers_of(record)
    page = run_dir / "report.html"
    if not page.is_file():
        # Training writes it, unless it could not.
        page = report.write_report(run_dir)
    lines = [f"- {sentence}" for sentence in report.summary(record, numbers)]
    create_markdown_artifact(
        f"## {record.name}\n\n" + "\n".join(lines) + f"\n\n[Report]({link(page)})",
        description=f"What {record.name} reached",
    )
    publish_pictures(run_dir, _CURVES)
    if numbers.per_class is not None:
        rows = [_flat(row) for row in class_rows(numbers.per_class, record.labels)]
        create_table_artifact(rows, description=f"Classes of {record.name}, the lowest F1 first")
    create_table_artifact(list(record.history), description=f"Epochs of {record.name}")
    create_link_artifact(link(page), link_text="report.html", description="The report")
    create_link_artifact(link(run_dir), link_text=record.name, description="The run directory")


def publish_pictures(folder: Path, names: Sequence[str]) -> None:
    """Publish those of the figures in `plots/` of a run or a study that are there."""
    for name in names:
        picture = folder / "plots" / f"{name}.png"
        if picture.is_file():
            # Embedded: a browser may not open files of the machine that trained.
            data = base64.b64encode(picture.read_bytes()).decode()
            create_image_artifact(
                f"data:image/png;base64,{data}", description=f"{name} of {folder.name}"
            )


def publish_sheet(found: dict[str, Any], page: Path) -> None:
    """Publish a data sheet: what was found as markdown, and a link to its page."""
    counts = ", ".join(f"{split} {sum(of.values()):,}" for split, of in found["counts"].items())
    problems = found["problems"] or ["nothing to mend"]
    create_markdown_artifact(
        f"## {Path(found['folder']).name}\n\n{len(found['labels'])} classes: {counts}\n\n"
        + "\n".join(f"- {problem}" for problem in problems),
        description="What the photos are like",
    )
    create_link_artifact(link(page), link_text="data sheet", description="The data sheet")


def publish_review(found: dict[str, Any], out: Path) -> None:
    """Publish a review: what was found as markdown, and a link to the page to decide on."""
    doubts = [
        f"- {pair['count']} labelled {pair['label']} look like {pair['suggested']}"
        for pair in found["pairs"]
    ]
    kinds = [f"- {kind.replace('_', ' ')}: {count}" for kind, count in found["kinds"].items()]
    page = link(out / "review.html")
    new = found["new_doubtful_labels"]
    create_markdown_artifact(
        f"## {found['doubtful_labels']} of {found['photos']} labels are doubtful"
        + ("" if new is None else f", {new} of them new")
        + "\n\n"
        + "\n".join([*doubts, *kinds])
        + f"\n\n[Look, and decide]({page})",
        description="What is probably wrong among the photos",
    )
    create_link_artifact(page, link_text="review.html", description="The page to decide on")


def candidate_table(candidate: Candidate) -> str:
    """Return a candidate's measurements as markdown, with a link to the run's report."""
    verdict = candidate.verdict
    own, before = candidate.speed_ms

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}"

    rows = [
        ("top-1", percent(verdict["champion_top1"]), percent(verdict["challenger_top1"])),
        *(
            [("photos it alone has right", str(verdict["lost"]), str(verdict["gained"]))]
            if verdict["champion_top1"] is not None
            else []
        ),
        ("ms for one photo", f"{before[0]:.1f}" if before else "", f"{own[0]:.1f}"),
        ("ms a photo in a batch of 32", f"{before[1]:.1f}" if before else "", f"{own[1]:.1f}"),
        ("image size", str(candidate.image_sizes[1] or ""), str(candidate.image_sizes[0])),
    ]
    p_value = verdict["p_value"]
    left_out = ", ".join(f"{n} {why}" for why, n in candidate.left_out.items()) or "none"
    changed = [
        f"- classes {what}: {', '.join(verdict[key])}"
        for what, key in (("added", "added"), ("removed", "removed"))
        if verdict[key] and verdict["case"] != "first release"
    ]
    worst = sorted(
        (row for row in verdict["classes"] if row["champion"] is not None),
        key=lambda row: row["challenger"] - row["champion"],
    )[:5]
    report = Path(candidate.run_dir).resolve() / "report.html"
    serving = f"version {candidate.champion}" if candidate.champion else "nothing"
    return "\n".join(
        [
            f"## {candidate.model}: {candidate.reason}",
            "",
            f"| on {verdict['photos']} {candidate.split} photos | serving: {serving} | candidate |",
            "| --- | ---: | ---: |",
            *(f"| {name} | {old} | {new} |" for name, old, new in rows),
            "",
            *([] if p_value is None else [f"- McNemar p: {p_value:.3g}"]),
            f"- parity: {candidate.photos_checked} photos, largest difference"
            f" {candidate.max_difference:.1e}; smoke call: {candidate.smoke_photos} photos",
            f"- threshold: {candidate.threshold}",
            f"- photos left out: {left_out}",
            *changed,
            *(
                f"- {row['label']}: recall {row['champion']:.1%} to {row['challenger']:.1%}"
                f" ({row['photos']} photos)"
                for row in worst
            ),
            "",
            f"[Report of {Path(candidate.run_dir).name}]({link(report)})",
        ]
    )


def publish_decision(decided: Release) -> None:
    """Publish the decision about a candidate: the numbers, every class, links."""
    candidate = decided.candidate
    what = f"released as version {decided.version}" if decided.released else "kept out"
    create_markdown_artifact(
        f"**{what}**: {decided.reason}\n\n{candidate_table(candidate)}",
        key="release",
        description=f"{candidate.model}: {what}",
    )
    rows = [
        {name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()}
        for row in candidate.verdict["classes"]
    ]
    create_table_artifact(rows, key="release-classes", description="Every class, before and after")
    if decided.path is not None:
        create_link_artifact(
            link(decided.path),
            link_text=f"{decided.model} version {decided.version}",
            description="The model that serves",
        )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a class's row with one plain value a column."""
    flat = {name: row[name] for name in ("label", "support", "predicted")}
    for name in ("f1", "precision", "recall"):
        rate = row[name]
        flat[name] = None if rate["value"] is None else round(rate["value"], 4)
        ends = (rate["low"], rate["high"])
        flat[f"{name} 95 %"] = "" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"
    return flat
