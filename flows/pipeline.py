"""Flow: from a folder of photos to a serving version."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.pruning import rule
from flows.release import outcome, released
from flows.release_gate import changes
from flows.release_gate.gate import Rules
from flows.tasks import tasks
from flows.tasks.artifacts import or_warn, publish_review, publish_sheet
from flows.tasks.names import run_name
from flows.tasks.parameters import Nightly, Places, Threshold, Training
from flows.train import trained
from training.buckets import mirror
from training.cli.photos import title_of


@flow(name="pipeline")
def pipeline(
    data: Path,
    run_id: str | None = None,
    training: Training = Training(),  # noqa: B008  # frozen
    model: str = "food42",
    places: Places = Places(),  # noqa: B008  # frozen
    nightly: Nightly = Nightly(),  # noqa: B008  # frozen
    rules: Rules = Rules(),  # noqa: B008  # frozen
    force: str = "",
    ask: bool = False,
    min_confidence: Threshold = None,
) -> State[Any]:
    """Inspect, prepare, train, and release what is better; the same run id resumes.

    Args:
        data: The folder of photos.
        run_id: Names the run directory; photos, model and date if empty.
        training: How to train.
        model: Name of the model in the repository.
        places: Folders of runs, caches and models.
        nightly: When photos are refused, and when too few have changed.
        rules: What a model must reach to be released.
        force: A reason to release it whatever the rules say.
        ask: Wait for a person's approval before a release.
        min_confidence: Answers that are less probable say that they are below the threshold.
    """
    run_id = run_id or run_name(data, model, places.runs_dir)
    # A run that another machine started is fetched here; training fetches again, and uploads.
    run_dir = mirror.pull(places.runs_dir / run_id)
    # A run that has begun goes on with its photos: what has changed since waits for the next one.
    if not (run_dir / "config.json").exists():
        found = tasks.inspect(data, run_dir / "sheet", training.group)
        page = run_dir / "sheet" / "index.html"
        or_warn("the data sheet", partial(publish_sheet, found, page))
        if nightly.strict:
            changes.require_clean(found)
        if nightly.min_changed:
            # Asked before a cache is built: a night without much news costs no disk.
            change = tasks.compare(data, found["bad_files"], model, places, training.group)
            if change.share < nightly.min_changed:
                return Completed(name="Unchanged", message=change.describe(nightly.min_changed))
        if warning := rule.little_room(mirror.local_path(places.cache_dir)):
            get_run_logger().warning("%s", warning)
        # Training prepares the cache as well; here it is a step with its own log and time.
        tasks.prepare(data, training.image_size, places.cache_dir, training.group)
    trained(data, training, run_id, places)
    if nightly.review:
        # No reason to keep a better model out.
        or_warn("the review", partial(_reviewed, data, run_dir, training.group, places), ())
    return outcome(
        released(
            run_dir, model, places=places, rules=rules, force=force, ask=ask,
            min_confidence=min_confidence,
        )
    )  # fmt: skip


def _reviewed(data: Path, run_dir: Path, group: str, places: Places) -> None:
    """Guess by a finished run which labels are doubtful, and publish how many are new."""
    out = mirror.local_path(places.runs_dir) / f"{title_of(data)}-nightly-review"
    found = tasks.review(
        [str(data), "--from", str(run_dir), "--group", group, "--out", str(out),
         "--runs-dir", str(places.runs_dir), "--cache-dir", str(places.cache_dir)]
    )  # fmt: skip
    publish_review(found, out)
