"""What `hansang finetune` prints: the runs of one strategy, or the table of a search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from terminal import print_json, print_table

if TYPE_CHECKING:
    from training.finetuning.retention import Retention
    from training.finetuning.strategies import Strategies


def show_single(results: Sequence[Any], kept: "Retention | None", as_json: bool) -> None:
    """Print the results of one strategy, and what was kept of the old classes."""
    from training.cli.tables import print_results

    if as_json and kept is not None and len(results) == 1:
        print_json({**results[0].to_dict(), "retention": kept.to_dict()})
        return
    print_results(list(results), as_json)
    if kept is not None and not as_json:
        print_table("Old classes", ["what", "value"], _retention_rows(kept))


def show_study(study: "Strategies", kept: "Retention | None") -> None:
    """Print a row for each strategy, and what the recommended one kept of the old classes."""
    from training.evaluation.intervals import over
    from training.pages.page import percent, points, points_span, span

    rows: list[list[object]] = []
    for row in study.rows:
        d = row.behind
        behind = f"{points(d.value)} ({points_span((d.low, d.high))})" if d else "–"
        rows.append([
            row.strategy, f"{percent(row.val_top1)} ({span(row.interval)})", behind,
            f"{row.epochs} × {row.seeds}", f"{row.time_s:.0f}", f"{row.num_trained / 1e6:.3g} M",
            row.verdict,
        ])  # fmt: skip
    how = over(study.recommended.groups)
    columns = [
        "strategy",
        f"top-1 (95 % {how})",
        f"behind (95 % {how})",
        "epochs",
        "s",
        "trained",
        "verdict",
    ]
    print_table("Fine-tuning", columns, rows)
    if kept is not None:
        print_table("Old classes", ["what", "value"], _retention_rows(kept))


def _retention_rows(kept: "Retention") -> list[list[object]]:
    from training.pages.page import percent, points, points_span

    value = kept.change.value or 0.0
    return [
        ["probe before", percent(kept.before)],
        ["probe after", percent(kept.after)],
        ["change in points (95 %)", f"{points(value)} ({points_span(kept.change.interval)})"],
    ]
