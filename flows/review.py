"""Flow: photos to a review of what is probably wrong among them, with a link to its page."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from flows.tasks import tasks
from flows.tasks.artifacts import or_warn, publish_review
from flows.tasks.parameters import Places, Reviewing
from training.cli.photos import title_of


@flow(name="review")
def review(
    data: Path,
    reviewing: Reviewing = Reviewing(),  # noqa: B008  # frozen
    places: Places = Places(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Rank wrong labels and odd photos. Killed or cancelled, the same photos go on where it was.

    The page lies in `<runs>/<DATA's name>-review`. It changes no photo: a person decides on the
    page, and `hansang relabel` takes that in.
    """
    out = places.runs_dir / f"{title_of(data)}-review"
    found = tasks.review(
        [str(data), *reviewing.arguments(), "--out", str(out),
         "--runs-dir", str(places.runs_dir), "--cache-dir", str(places.cache_dir)]
    )  # fmt: skip
    or_warn("the review", partial(publish_review, found, out))
    return found
