"""The files of a finished study of arms: `result.json`, `report.html`, `plots/`."""

import json
from pathlib import Path

from training.ablation import plots
from training.ablation.learning_curve import MORE
from training.ablation.result import AblationResult
from training.files import write_text
from training.pages import page


def write(result: AblationResult, folder: Path) -> Path:
    """Write the files into the study's folder; return the path of the page."""
    write_text(folder / "result.json", json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
    figures, into = [], folder / "plots"
    if result.curve is None:
        figures.append(plots.top1(result, into))
    else:
        figures += [plots.curve(result.curve, into), plots.worth(result.curve, into)]
    if len(result.arms) > 1 and result.classes:
        figures.append(plots.class_changes(result, into))
    out = folder / "report.html"
    values = {"result": result, "figures": figures, "folder": folder, "more": MORE}
    page.write("arms.html.j2", out, values)
    return out
