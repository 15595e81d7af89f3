"""The report of a run on a GPU: JSON for programs and Markdown for people, whole at any time."""

import json
import threading
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
AIMS = (
    ("train_s_an_epoch", "training, s an epoch of 33,593 photos at 224 px", "<=", 3.0),
    ("train_over_bare", "training, part of bare forward and backward", ">=", 0.9),
    ("model_images_per_s", "model alone, images/s", ">=", 30_000),
    ("raw_images_per_s", "raw pixels over gRPC, images/s", ">=", 20_000),
    ("jpeg_images_per_s", "JPEG over gRPC, images/s", ">=", 10_000),
    ("lone_call_p50_ms", "a lone call, ms at the median", "<=", 2.0),
)
"""What is aimed at on an H100."""


class Report:
    """What each step found; both files are written anew whenever something is added."""

    def __init__(self, path: Path, about: Entry) -> None:
        """Begin a report.

        Args:
            path: Of the JSON file; the Markdown file and the log lie beside it.
            about: What no figure must be told without: device, commit, time.
        """
        self.path = path
        self.log = path.with_suffix(".log")
        self.about = about
        self.steps: dict[str, Entry] = {}
        self._writing = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self._write()

    def add(self, stage: str, name: str, entry: Entry) -> None:
        """Note what a step of a stage found, or that it runs, and write the files."""
        with self._writing:
            self.steps[name] = {"stage": stage, **entry}
            self._write()

    def faults(self) -> list[str]:
        """Return a line for each step that is not ok."""
        return [f"{name}: {entry['status']}" for name, entry in self.steps.items()
                if entry["status"] != "ok"]  # fmt: skip

    def _write(self) -> None:
        data = {**self.about, "best": best(self.steps), "steps": self.steps}
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        for path, content in ((self.path, text), (self.path.with_suffix(".md"), self.table())):
            half = path.with_suffix(".tmp")
            half.write_text(content, "utf-8")
            half.replace(path)

    def table(self) -> str:
        """Return the report as Markdown."""
        lines = [f"# {self.about['device']}, commit {self.about['commit']}", ""]
        lines += [f"{key}: {value}  " for key, value in self.about.items()]
        lines += ["", "| aim on an H100 | | found |", "| --- | --- | --- |"]
        found = best(self.steps)
        for name, title, sign, aim in AIMS:
            value = found.get(name)
            met = value is not None and (value <= aim if sign == "<=" else value >= aim)
            shown = "not measured" if value is None else f"{value} ({'met' if met else 'missed'})"
            lines.append(f"| {title} | {sign} {aim:,} | {shown} |")
        stage = ""
        for name, entry in self.steps.items():
            if entry["stage"] != stage:
                stage = entry["stage"]
                lines += ["", f"## {stage}"]
            lines += ["", f"### {name}: {entry['status']} ({entry['took_s']} s)", ""]
            lines += _rows(entry.get("rows") or [])
            lines += [f"- {key}: {value}" for key, value in entry.items()
                      if key not in ("stage", "status", "took_s", "rows", "where")]  # fmt: skip
        return "\n".join(lines) + "\n"


def _rows(rows: list[Entry]) -> list[str]:
    if not rows:
        return []
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(keys)} |", f"|{' --- |' * len(keys)}"]
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in keys)} |" for row in rows]
    return [*lines, ""]


def best(steps: dict[str, Entry]) -> Entry:
    """Return the best figures that the aims are of; what was not measured is not there.

    Only what a run or a server has by itself counts. Of steps that were cut off, rows count, too.
    """
    found: Entry = {}
    trained = [row for name, entry in steps.items() if name.startswith(("eager-", "compiled-"))
               for row in entry.get("rows", []) if "ours_photos_per_s" in row]  # fmt: skip
    if trained:
        row = max(trained, key=lambda row: row["ours_photos_per_s"])
        found["train_photos_per_s"] = row["ours_photos_per_s"]
        found["train_s_an_epoch"] = row["s_an_epoch_of_33593"]
        found["train_over_bare"] = row["ours_over_bare"]
    alone = [row for name in ("model-fp16", "model-fp32")
             for row in steps.get(name, {}).get("rows", [])]  # fmt: skip
    if alone:
        found["model_images_per_s"] = max(row["images_per_s"] for row in alone)
    served = [row for name in ("one-process", "replicas")
              for row in steps.get(name, {}).get("rows", [])]  # fmt: skip
    for kind in ("raw", "jpeg"):
        of_kind = [row for row in served if row["kind"] == kind]
        if of_kind:
            found[f"{kind}_images_per_s"] = max(row["images_per_s"] for row in of_kind)
    lone = [row["p50_ms"] for row in served
            if row["calls_in_flight"] == 1 and row["kind"] == "raw"]  # fmt: skip
    if lone:
        found["lone_call_p50_ms"] = min(lone)
    return found
