"""After days without a worker, of each schedule the latest run is made up for, and no other."""

from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

_PAGE = 200


def cancel_superseded(client: SyncPrefectClient, pool: str) -> int:
    """Cancel runs of a pool that a schedule made and a later one of it has overtaken.

    What people started, and what has begun, stays. Returns how many were cancelled.
    """
    latest, old, seen = set(), [], 0
    due = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": datetime.now(UTC)},
    }
    while True:
        page = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(due),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [pool]}}),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=_PAGE, offset=seen,
        )  # fmt: skip
        seen += len(page)
        for run in page:
            if not run.auto_scheduled or run.run_count:
                continue
            if run.deployment_id in latest:
                old.append(run.id)
            latest.add(run.deployment_id)
        if len(page) < _PAGE:
            break
    for each in old:
        client.set_flow_run_state(each, Cancelled(message="a later one of its schedule is due"))
    return len(old)
