"""Names of runs that say which photos, what for, and when."""

from pathlib import Path

from prefect import runtime

from training.cli.photos import title_of


def run_name(data: Path, what: str, runs_dir: Path) -> str:
    """Return a name for the run of this flow run: photos, what for, when it was due (UTC).

    Begun again, the same flow run gets the same name: it ends with the last letters of its id.
    """
    own = str(runtime.flow_run.id)[-6:]
    begun = sorted(runs_dir.glob(f"*-{own}"))
    if begun:
        return begun[0].name
    return f"{title_of(data)}-{what}-{runtime.flow_run.scheduled_start_time:%Y%m%d-%H%M}-{own}"
