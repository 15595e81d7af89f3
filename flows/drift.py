"""Flow: compare the service's traffic with the photos that its model was measured on."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.release_gate import traffic
from flows.tasks.parameters import Places

EVENT = "hansang.drift"


@flow(name="drift")
def drift(
    model: str = "food42",
    metrics: str = "http://localhost:8002/metrics",
    places: Places = Places(),  # noqa: B008  # frozen
    rules: traffic.DriftRules = traffic.DriftRules(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Read the service's counters; raise the event `hansang.drift` if the traffic has drifted.

    Args:
        model: Name of the model.
        metrics: The service's /metrics.
        places: Where the model repository lies.
        rules: When traffic counts as drifted.
    """
    found = traffic.check_drift(model, metrics, places.repository, rules)
    get_run_logger().info("%s: %s", model, found.reason)
    moved = "\n".join(f"| {label} | {a:.1%} | {b:.1%} |" for label, a, b in found.moved)
    create_markdown_artifact(
        f"## {model}: {found.reason}\n\n{found.images} images in {found.hours:.1f} h; mean"
        f" confidence {found.mean_confidence[0]:.3f} held out, {found.mean_confidence[1]:.3f}"
        f" lately\n\n| moved most | held out | lately |\n| --- | ---: | ---: |\n{moved}",
        key="drift",
        description=f"{model}: what the service sees",
    )
    if found.drifted:
        raise_event(model, found)
    return found.to_dict()


def raise_event(model: str, found: traffic.Drift) -> None:
    """Send the event to Prefect, whose automations may notify people or start the pipeline."""
    emit_event(
        EVENT,
        resource={"prefect.resource.id": f"hansang.model.{model}", "prefect.resource.name": model},
        payload=found.to_dict(),
    )


def raise_event_from_anywhere(model: str, found: traffic.Drift) -> None:
    """Send the event from outside a flow, and wait until it is sent."""
    from prefect.events.worker import EventsWorker

    raise_event(model, found)
    EventsWorker.instance().drain()
