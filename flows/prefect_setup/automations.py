"""What Prefect does by itself about runs that are silent, never start, or crash."""

from datetime import timedelta

from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

TAG = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.hansang"}
HEARTBEATS_MISSED_S = 95.0
"""Three heartbeats of 30 s and a little: a run that is silent for so long is dead."""

NEVER_STARTED_S = 900.0
"""A run that was taken and did not start for so long never will: an image is pulled within it."""

_SECOND_REPORT_S = 30.0
MAX_RETRIES = 3
"""Times that a crashed run is started again."""

_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused", "Cancelling")
_OURS = ("Released", "Kept", "Unchanged", "AwaitingRetry", "Scheduled")


def automations(
    heartbeat_missed_s: float = HEARTBEATS_MISSED_S, never_started_s: float = NEVER_STARTED_S
) -> list[AutomationCore]:
    """Return three automations: for dead runs, for runs that never start, and for crashed ones.

    All apply only to flow runs with the tag `hansang`. The third waits some seconds: a worker
    reports a dead process twice, and the second report would crash the run that was started again.
    It takes runs that started one to three times. A run that never started (its code cannot be
    imported) and one that crashes for the fourth time stay Crashed, with their reason.
    """
    return [_silent(heartbeat_missed_s), _never_started(never_started_s), _crashed()]


def _silent(missed_s: float) -> AutomationCore:
    return AutomationCore(
        name="hansang: a run whose heartbeat stops has crashed",
        description="Its process and its worker were killed: nobody else would tell.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{state}" for state in (*_ENDED, *_OURS)),
            },
            for_each={"prefect.resource.id"},
            match_related=dict(TAG),
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=missed_s),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed", state="CRASHED", message=f"no heartbeat for {missed_s:.0f} s"
            )
        ],
    )


def _never_started(after_s: float) -> AutomationCore:
    return AutomationCore(
        name="hansang: a run that never starts is given back",
        description="Its worker died between taking and starting it; it would hold its place.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Pending"},
            expect={
                f"prefect.flow-run.{state}"
                for state in ("Running", "AwaitingConcurrencySlot", "Late", *_ENDED, *_OURS)
            },
            for_each={"prefect.resource.id"},
            match_related=dict(TAG),
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[
            ChangeFlowRunState(
                name="AwaitingRetry",
                state="SCHEDULED",
                message=f"taken by a worker, and not started within {after_s:.0f} s",
            )
        ],
    )


def _crashed() -> AutomationCore:
    return AutomationCore(
        name="hansang: a crashed run is begun again",
        description=f"Under its own id, to find its checkpoint; {MAX_RETRIES} times at most.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Crashed"},
            expect={f"prefect.flow-run.{state}" for state in ("Running", *_OURS)},
            for_each={"prefect.resource.id"},
            match={"prefect.run-count": [str(count + 1) for count in range(MAX_RETRIES)]},
            match_related=dict(TAG),
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=_SECOND_REPORT_S),
        ),
        actions=[
            ChangeFlowRunState(
                name="AwaitingRetry", state="SCHEDULED", message="begun again after a crash"
            )
        ],
    )
