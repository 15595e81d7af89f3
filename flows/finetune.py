"""Flow: fine-tune trained weights to another set of photos, one task a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.release import released
from flows.release_gate.gate import Rules
from flows.tasks import tasks
from flows.tasks.links import link
from flows.tasks.names import run_name
from flows.tasks.parameters import Finetuning, Places
from flows.train import publish


@flow(name="finetune")
def finetune(
    data: Path,
    source: str,
    search: Finetuning = Finetuning(),  # noqa: B008  # frozen
    run_id: str | None = None,
    model: str | None = None,
    places: Places = Places(),  # noqa: B008  # frozen
    rules: Rules = Rules(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Fine-tune by one strategy or the best of all; with `model`, release the winner under it.

    Killed or cancelled at any moment, the same run id goes on.
    """
    from training.finetuning import search as finetuning
    from training.finetuning import strategies_page
    from training.finetuning.strategies import summarise
    from training.recipes import recipe

    study_dir = places.runs_dir / (run_id or run_name(data, "finetune", places.runs_dir))
    epochs = search.epochs or recipe("finetune").epochs
    shared = [
        str(data), "--from", source, "--cache-dir", str(places.cache_dir),
        "--repository", str(places.repository), *search.arguments(),
    ]  # fmt: skip

    def run_all(jobs: Sequence[finetuning.Job]) -> None:
        for job in jobs:
            if job.stage and finetuning.is_finished(job.run_dir):
                continue
            named = tasks.finetune.with_options(
                task_run_name=" ".join(f"{job.strategy} {job.stage} seed {job.seed}".split())
            )
            named([
                *shared, "--strategy", job.strategy, "--epochs", str(job.epochs),
                "--seed", str(job.seed), "--runs-dir", str(job.run_dir.parent),
                "--run", job.run_dir.name, "--study", str(study_dir),
            ])  # fmt: skip
            publish(job.run_dir)

    numbers = list(range(search.seeds))
    similarity: Any = None
    if search.strategy == "auto":
        similarity = tasks.similarity(data, source, search, places, study_dir)
        jobs = finetuning.search(study_dir, epochs, numbers, run_all, keep=search.keep)
    else:
        jobs = finetuning.single(study_dir, search.strategy, epochs, numbers)
        run_all(jobs)
    # The folder of a study of one run is the run's own, whose report must stay.
    folder = study_dir if len(jobs) > 1 else study_dir / "study"
    folder.mkdir(parents=True, exist_ok=True)
    found = strategies_page.write(folder, source, summarise(jobs), similarity, None)
    _publish(found, study_dir.name)
    if model is not None:
        found["released"] = released(Path(found["release"]), model, places=places, rules=rules)
    return found


def _publish(found: dict[str, Any], name: str) -> None:
    """Show the study: what is recommended, the table, and a link to its page."""
    lines = [f"- {row['strategy']}: {row['val_top1']:.1%}, {row['verdict']}"
             for row in found["strategies"]]  # fmt: skip
    create_markdown_artifact(
        f"## {name}: {found['recommended']}\n\n" + "\n".join(lines),
        description=f"What fine-tuning {name} found",
    )
    shown = ("strategy", "stage", "epochs", "seeds", "val_top1", "time_s", "num_trained", "verdict")
    create_table_artifact(
        [{name: row[name] for name in shown} for row in found["strategies"]],
        description=f"Strategies of {name}",
    )
    page = Path(found["report"])
    create_link_artifact(link(page), link_text="report.html", description="The study")
