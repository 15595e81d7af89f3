"""An offline classification from its plan to its last part; the same again goes on where it was."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from service.errors import InvalidArgumentError, ModelContractError, NotFoundError
from service.models.bucket import BucketRepository
from service.models.repository import ModelRepository
from service.offline import plan as plans
from service.offline.engines import Place, engine
from service.offline.plan import Plan, Wish
from service.offline.worker import Job, answer
from storage import Storage, bucket_url, storage_of
from terminal import Progress, UserError, no_progress

_MOST = 10
"""So many parts may fail before any succeeds; then it is no fault of the parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What became of all photos."""

    photos: int
    classified: int
    failed: int
    unfinished: int
    """Photos of parts that could not be ended; the same command tries them again."""
    model: str
    model_version: int
    parts: int
    out: str
    seconds: float
    photos_per_s: float
    """Photos that this very command read, its workers' start included in the time."""
    faults: tuple[str, ...] = ()
    """Why parts could not be ended."""


def classify(
    photos: Sequence[str],
    out: str,
    *,
    kind: str,
    place: Place,
    repository: Path,
    model: str = "",
    version: int = 0,
    top_k: int = 5,
    part_size: int = 500,
    device: str = "auto",
    found: Callable[[int], object] = lambda _: None,
    tell: Callable[[str], object] = lambda _: None,
    progress: Progress = no_progress,
) -> Summary:
    """Classify photos on an engine, or go on with what was begun in `out`.

    Args:
        photos: Folders, photos, `s3://` prefixes.
        out: A folder or an `s3://` prefix for the answers.
        kind: The engine, `dask` or `ray`.
        place: Where its workers are.
        repository: The model repository; workers must reach it under this name.
        model: Which model; empty for the only one.
        version: Which version; 0 for the one that serves when the plan is made.
        top_k: Classes for each photo.
        part_size: Photos of a part, in a new plan.
        device: Where workers compute: auto, cuda or cpu.
        found: Is told how many photos were found, while there is no plan.
        tell: Is told what was left out, a line each.
        progress: Is told how many photos are done.

    Raises:
        UserError: There is no such photo, model or worker, or `out` is of another wish.
    """
    storage = storage_of(out)
    plan = _plan(storage, photos, repository, model, version, top_k, part_size, found)
    for line in plan.left_out:
        tell(line)
    job = Job(plan=plan, out=_place(out), repository=_place(repository), device=device)
    start_s = time.monotonic()
    counts = _run(job, _unanswered(storage, plan), kind, place, progress)
    seconds = time.monotonic() - start_s
    unfinished = sum(_size(plan, part) for part in counts.faults)
    return Summary(
        photos=plan.num_photos,
        classified=plan.num_photos - unfinished - counts.failed,
        failed=counts.failed,
        unfinished=unfinished,
        model=plan.wish.model,
        model_version=plan.wish.version,
        parts=plan.num_parts,
        out=storage.url,
        seconds=seconds,
        photos_per_s=counts.worked / max(seconds, 1e-9),
        faults=tuple(f"part {part}: {why}" for part, why in sorted(counts.faults.items())),
    )


@dataclass(slots=True)
class _Counts:
    """What the workers reported so far."""

    failed: int = 0
    """Photos that could not be read."""
    worked: int = 0
    """Photos that were read now, not found from before."""
    faults: dict[int, str] = field(default_factory=dict)
    """Parts that could not be ended, each with the reason."""


def _run(job: Job, parts: Sequence[int], kind: str, place: Place, progress: Progress) -> _Counts:
    """Classify these parts on the workers.

    Raises:
        UserError: A part failed in a way in which all others would.
    """
    plan, counts = job.plan, _Counts()
    done = plan.num_photos - sum(_size(plan, part) for part in parts)
    progress(done, plan.num_photos)
    if not parts:
        return counts
    with engine(kind, place) as workers:
        for part, outcome in workers.run(partial(answer, job), parts):
            if isinstance(outcome, Exception):
                counts.faults[part] = _reason(outcome)
                _give_up(outcome, len(counts.faults), counts.worked > 0)
                continue
            done += outcome.photos
            counts.failed += outcome.failed
            counts.worked += outcome.worked
            progress(done, plan.num_photos, f"{counts.failed} failed" if counts.failed else "")
    return counts


def _plan(
    out: Storage,
    photos: Sequence[str],
    repository: Path,
    model: str,
    version: int,
    top_k: int,
    part_size: int,
    found: Callable[[int], object],
) -> Plan:
    places = tuple(_place(each) for each in photos)
    plan = plans.read(out)
    if plan is None:
        name, number = _version(repository, model, version)
        wish = Wish(photos=places, model=name, version=number, top_k=top_k)
        plan = plans.make(out, wish, part_size, found)
    # A release in the meantime changes nothing: all photos are answered by one version.
    asked = (places, top_k, model or plan.wish.model, version or plan.wish.version)
    if asked != (plan.wish.photos, plan.wish.top_k, plan.wish.model, plan.wish.version):
        wish = plan.wish
        raise UserError(
            f"{out.url} was begun for other photos or settings ({', '.join(wish.photos)}; model"
            f" {wish.model}, version {wish.version}, --top-k {wish.top_k}); give those, or another"
            " --out"
        )
    return plan


def _version(repository: Path, model: str, version: int) -> tuple[str, int]:
    """Return the model and the version that are meant."""
    url = bucket_url(repository)
    if url is None:
        store = ModelRepository(repository)
        serving = {name: store.serving(name) for name in store.models()}
    else:
        serving = BucketRepository(url, Path()).serving()
    names = ", ".join(serving) or (
        "none; hansang release RUN publishes one, where models are trained"
    )
    if not model and len(serving) != 1:
        raise InvalidArgumentError(f"--model: name one of those in {repository}: {names}")
    name = model or next(iter(serving))
    if name not in serving:
        raise NotFoundError(f"no model {name!r} in {repository}; there is {names}")
    return name, version or serving[name]


def _place(path: Path | str) -> str:
    """Return a name that workers understand as well, wherever they were started."""
    return bucket_url(path) or str(Path(path).absolute())


def _unanswered(out: Storage, plan: Plan) -> list[int]:
    """Return the parts to do: those with failures again, since their photos may be there by now."""
    whole = _parts(out, "answers") - _parts(out, "failed")
    return [part for part in range(plan.num_parts) if part not in whole]


def _parts(out: Storage, folder: str) -> set[int]:
    return {int(Path(name).stem) for name in out.names(folder)}


def _size(plan: Plan, part: int) -> int:
    return min(plan.part_size, plan.num_photos - part * plan.part_size)


def _reason(error: Exception) -> str:
    # Ray wraps what a worker raised, with the traceback in its text.
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().split("\n")[0] or type(cause).__name__


def _give_up(error: Exception, faults: int, some_work: bool) -> None:
    """Raise where the other parts would fail as well."""
    if isinstance(error, NotFoundError | ModelContractError) or (faults >= _MOST and not some_work):
        raise UserError(f"{_reason(error)} (on the workers)") from error
