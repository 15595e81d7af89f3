"""The files of a finished study of arms: `result.json`, `report.html`, `plots/`."""

import json
from pathlib import Path

from training.ablation import plots
from training.ablation.result import AblationResult
from training.files import write_text
from training.pages import page


def write(result: AblationResult, folder: Path) -> Path:
    """Write the files into the study's folder; return the path of the page."""
    write_text(folder / "result.json", json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
    figures = [plots.top1(result, folder / "plots")]
    if len(result.arms) > 1 and result.classes:
        figures.append(plots.class_changes(result, folder / "plots"))
    out = folder / "report.html"
    page.write("arms.html.j2", out, {"result": result, "figures": figures, "folder": folder})
    return out
