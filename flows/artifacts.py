"""What Prefect shows of a run and of its photos: summary, curves, classes, links to the pages."""

import base64
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

_CURVES = ("accuracy", "loss")


def publish_run(run_dir: Path) -> None:
    """Publish a run: summary as markdown, curves as images, classes and epochs as tables, links."""
    from training import report
    from training.run_record import RunRecord

    record = RunRecord.open(run_dir)
    numbers = report.measured(record)
    page = run_dir / "report.html"
    if not page.is_file():
        # Training writes it, unless it could not.
        page = report.write(run_dir)
    lines = [f"- {sentence}" for sentence in report.summary(record, numbers)]
    create_markdown_artifact(
        f"## {record.name}\n\n" + "\n".join(lines) + f"\n\n[Report]({page.resolve().as_uri()})",
        description=f"What {record.name} reached",
    )
    for name in _CURVES:
        picture = run_dir / "plots" / f"{name}.png"
        if picture.is_file():
            # Inside the artifact: a browser may not open files of the machine that trained.
            data = base64.b64encode(picture.read_bytes()).decode()
            create_image_artifact(
                f"data:image/png;base64,{data}", description=f"{record.name}: {name}"
            )
    if numbers.per_class is not None:
        rows = [_flat(row) for row in report.class_rows(numbers.per_class, record.labels)]
        create_table_artifact(rows, description=f"Classes of {record.name}, the lowest F1 first")
    create_table_artifact(list(record.history), description=f"Epochs of {record.name}")
    create_link_artifact(page.resolve().as_uri(), link_text="report.html", description="The report")
    create_link_artifact(
        run_dir.resolve().as_uri(), link_text=record.name, description="The run directory"
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
    create_link_artifact(
        page.resolve().as_uri(), link_text="data sheet", description="The data sheet"
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
