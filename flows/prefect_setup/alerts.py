"""Failed, late and crashed runs wake people: Prefect's automations call Alertmanager.

flow run ─► automation ─► webhook block ─► POST /api/v2/alerts ─► whom Alertmanager is told to call
"""

import json
from datetime import timedelta
from typing import cast
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

BLOCK = "hansang-alerts"
_MESSAGE = "MESSAGE"
_GIVEN_UP_S = 180.0
"""A crashed run that nobody began again for so long stays crashed."""


def save_block(url: str) -> UUID:
    """Write down where Alertmanager is; return the block's id."""
    address = f"{url.rstrip('/')}/api/v2/alerts"
    return cast("UUID", Webhook(method="POST", url=address).save(BLOCK, overwrite=True))


def automations(block: UUID, tag: dict[str, str]) -> list[AutomationCore]:
    """Return an automation for each way that a run with this tag needs a person."""
    each = {"prefect.resource.id"}

    def at_once(states: set[str]) -> EventTrigger:
        return EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in states}, match_related=tag,
            for_each=each, posture=Posture.Reactive, threshold=1, within=timedelta(0),
        )  # fmt: skip

    crashed = EventTrigger(
        after={"prefect.flow-run.Crashed"},
        expect={f"prefect.flow-run.{state}" for state in ("Running", "AwaitingRetry", "Completed")},
        match_related=tag, for_each=each, posture=Posture.Proactive, threshold=1,
        within=timedelta(seconds=_GIVEN_UP_S),
    )  # fmt: skip
    return [
        _alert("HansangRunFailed", "failed", "critical", at_once({"Failed", "TimedOut"}), block),
        _alert("HansangRunLate", "is late: no worker takes it", "warning", at_once({"Late"}),
               block),
        _alert("HansangRunCrashed", "crashed, and is not begun again", "critical", crashed, block),
    ]  # fmt: skip


def _alert(
    name: str, what: str, severity: str, trigger: EventTrigger, block: UUID
) -> AutomationCore:
    alert = {
        "labels": {
            "alertname": name, "job": "hansang-flows", "severity": severity,
            "flow": "{{ flow.name }}", "run": "{{ flow_run.name }}",
        },
        "annotations": {
            "summary": f"{{{{ flow.name }}}} {{{{ flow_run.name }}}} {what}", "message": _MESSAGE,
        },
        "generatorURL": "{{ flow_run|ui_url }}",
    }  # fmt: skip
    # What a run says may hold any character: the template itself makes JSON of it.
    said = "{{ (flow_run.state.message or '') | tojson }}"
    payload = json.dumps([alert]).replace(json.dumps(_MESSAGE), said)
    return AutomationCore(
        name=f"hansang: alert {name}",
        description=f"A run {what}: Alertmanager is told.",
        trigger=trigger,
        actions=[CallWebhook(block_document_id=block, payload=payload)],
    )
