"""`hansang deploy`: make a Prefect server ready for the nightly pipeline, and say what changed.

pools (one that trains, a place for each GPU; one for light work) ─► prefect.yaml ─► automations

Everything is found by its name, so a second deploy changes nothing. If the pool of light work
exists and is not of type `process` (deploy/kubernetes makes one of Jobs), it is left as it is and
takes every flow. The cluster then decides where each one runs.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.prefect_setup import alerts
from flows.prefect_setup.automations import (
    HEARTBEATS_MISSED_S,
    NEVER_STARTED_S,
    TAG,
    automations,
)
from flows.prefect_setup.pools import LIGHT_LIMIT, LIGHT_POOL, heavy_pool, num_gpus
from terminal import UserError

_COMPARED = (
    "parameters", "schedules", "tags", "work_pool_name", "concurrency_limit",
    "concurrency_options", "entrypoint", "job_variables", "description", "pull_steps",
    "parameter_openapi_schema",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What `deploy` did to one thing."""

    kind: str
    """pool, deployment or automation."""
    name: str
    what: str
    """created, unchanged, or what changed."""


def deploy(
    *,
    home: Path,
    data: str = "photos",
    model: str = "food42",
    gpus: int | None = None,
    timezone: str = "Etc/UTC",
    file: Path = Path("prefect.yaml"),
    heartbeat_missed_s: float = HEARTBEATS_MISSED_S,
    never_started_s: float = NEVER_STARTED_S,
) -> list[Change]:
    """Create or update everything on the server that PREFECT_API_URL names.

    With HANSANG_ALERTS, the address of an Alertmanager, failed, late and crashed runs are told to
    it.

    Args:
        home: The folder that the flows run in; it holds `flows/`.
        data: The folder of photos, from there.
        model: Name of the model.
        gpus: GPUs of the machine that trains, 0 for a CPU; where Jobs do, those of each Job. By
            default those that this machine has, and 1 for a Job.
        timezone: In which nights are scheduled, such as Asia/Seoul.
        file: The deployments.
        heartbeat_missed_s: Silence after which a run is dead.
        never_started_s: After which a run that a worker took, and did not start, is given back.

    Raises:
        UserError: The server cannot be reached, or refuses something; there is no such time zone.
    """
    if timezone not in available_timezones():
        raise UserError(f"--timezone {timezone}: no such time zone; give one such as Asia/Seoul")
    if not file.is_file():
        raise UserError(f"no {file}; run it in the folder that holds Hansang's prefect.yaml")
    with connected() as client:
        jobs = _other_type(client)
        if jobs:
            gpus, heavy = 1 if gpus is None else gpus, LIGHT_POOL
            changes = [Change(kind="pool", name=LIGHT_POOL, what=f"left as it is: {jobs}")]
        else:
            gpus = num_gpus() if gpus is None else gpus
            heavy = heavy_pool(gpus)
            changes = [
                _pool(client, LIGHT_POOL, LIGHT_LIMIT), _pool(client, heavy, max(gpus, 1))
            ]  # fmt: skip
        before = _deployments(client)
        _apply(
            file, HOME=str(home.resolve()), DATA=data, MODEL=model, POOL=heavy, GPUS=str(gpus),
            TIMEZONE=timezone,
        )  # fmt: skip
        for name, now in sorted(_deployments(client).items()):
            if now["tags"] and "hansang" in now["tags"]:
                changes.append(
                    Change(kind="deployment", name=name, what=_difference(before.get(name), now))
                )
        wanted = automations(heartbeat_missed_s, never_started_s)
        if url := os.environ.get("HANSANG_ALERTS"):
            wanted += alerts.automations(alerts.save_block(url), dict(TAG))
        changes += [_automation(client, each) for each in wanted]
    return changes


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """Yield a client of the server that PREFECT_API_URL names.

    Raises:
        UserError: There is none, or it does not answer.
    """
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise UserError(
            "PREFECT_API_URL is not set: start a server (prefect server start, or hansang up) and"
            " export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
        if error is not None:
            raise UserError(f"no Prefect server answers at {url}: {error}")
        yield client


def _other_type(client: SyncPrefectClient) -> str:
    """Return the type of the pool of light work; an empty string if it is `process` or missing."""
    try:
        found = client.read_work_pool(LIGHT_POOL).type
    except ObjectNotFound:
        return ""
    return "" if found == "process" else found


def _pool(client: SyncPrefectClient, name: str, limit: int) -> Change:
    template = ProcessWorker.get_default_base_job_template()
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(
                name=name, type="process", concurrency_limit=limit, base_job_template=template
            )
        )
        return Change(kind="pool", name=name, what="created")
    differing = []
    if found.concurrency_limit != limit:
        differing.append(f"limit {found.concurrency_limit} → {limit}")
    if found.base_job_template != template:
        differing.append("job template")
    if differing:
        client.update_work_pool(
            name, WorkPoolUpdate(concurrency_limit=limit, base_job_template=template)
        )
    return Change(kind="pool", name=name, what=", ".join(differing) or "unchanged")


def _apply(file: Path, **settings: str) -> None:
    """Run `prefect deploy --all` on prefect.yaml, with settings as its HANSANG_ variables."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all",
         "--prefect-file", str(file.resolve())],
        cwd=settings["HOME"],
        env={
            "HANSANG_METRICS": "http://localhost:8002/metrics",
            **os.environ, **{f"HANSANG_{name}": value for name, value in settings.items()},
            "PREFECT_LOGGING_LEVEL": "WARNING",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(f"prefect deploy: {(done.stderr or done.stdout).strip()[-2000:]}")


def _deployments(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    found = {}
    flows: dict[Any, str] = {}
    offset = 0
    while page := client.read_deployments(limit=100, offset=offset):
        for deployment in page:
            if deployment.flow_id not in flows:
                flows[deployment.flow_id] = client.read_flow(deployment.flow_id).name
            name = f"{flows[deployment.flow_id]}/{deployment.name}"
            found[name] = deployment.model_dump(mode="json")
        offset += len(page)
    return found


def _difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    if before is None:
        return "created"
    differing = [name for name in _COMPARED if _plain(before.get(name)) != _plain(now.get(name))]
    return ", ".join(differing) or "unchanged"


def _plain(value: Any) -> Any:
    """Return a value without what the server sets anew each time: ids and times."""
    if isinstance(value, dict):
        dropped = ("id", "created", "updated", "deployment_id", "anchor_date")
        return {key: _plain(each) for key, each in value.items() if key not in dropped}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> Change:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change(kind="automation", name=wanted.name, what="created")
    # Compared by content: the server gives each trigger an id of its own.
    now, then = (
        AutomationCore.model_validate(each.model_dump()).model_dump(mode="json")
        for each in (wanted, found[0])
    )
    for each in (now, then):
        each["trigger"].pop("id", None)
        for key, value in each["trigger"].items():
            if isinstance(value, list):
                each["trigger"][key] = sorted(map(str, value))
    differing = [key for key in now if now[key] != then.get(key)]
    if not differing:
        return Change(kind="automation", name=wanted.name, what="unchanged")
    client.update_automation(found[0].id, wanted)
    return Change(kind="automation", name=wanted.name, what=", ".join(differing))
