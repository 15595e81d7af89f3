"""One `/metrics` for several replicas."""

from contextlib import ExitStack

import pytest

from service.observability.merged_metrics import MergedMetrics
from service.observability.metrics import Metrics, exposed


@pytest.fixture
def replicas():
    """Give the merged measures, and those of the two replicas that they are of."""
    parent, pair = Metrics(), (Metrics(), Metrics())
    merged = MergedMetrics(parent.registry)
    parent.ready.set(1)
    with ExitStack() as stack:
        for number, each in enumerate(pair):
            each.ready.set(1)
            port = stack.enter_context(exposed(each.registry, "127.0.0.1", 0))
            merged.add(number, port)
        yield merged, pair


def value(merged: MergedMetrics, name: str, **labels: str) -> float | None:
    """Scrape, and return one sample."""
    found = merged.registry.collect()
    for family in found:
        for sample in family.samples:
            if sample.name == f"hansang_{name}" and sample.labels == labels:
                return sample.value
    return None


def test_counts_add_up_and_states_do_not(replicas):
    """Counters, histograms and what is in the server are sums; all are ready, or none is."""
    merged, (one, two) = replicas
    one.bad_images.labels("broken").inc(2)
    two.bad_images.labels("broken").inc(3)
    one.batch_images.observe(3)
    two.batch_images.observe(64)
    one.queued_images.value, two.queued_images.value = 4, 5
    one.model_version.labels("food").set(8)
    two.model_version.labels("food").set(7)

    assert 5 == value(merged, "bad_images_total", kind="broken")
    assert (2, 67) == (value(merged, "batch_images_count"), value(merged, "batch_images_sum"))
    assert 1 == value(merged, "batch_images_bucket", le="4.0")
    assert 2 == value(merged, "batch_images_bucket", le="64.0")
    assert 9 == value(merged, "queued_images")
    assert 8 == value(merged, "model_version", model="food")
    assert 1 == value(merged, "ready")
    two.ready.set(0)
    assert 0 == value(merged, "ready")


def test_counters_of_a_replica_that_ended_stay(replicas):
    """Its gauges go with it, and the one after it counts from there."""
    merged, (one, two) = replicas
    one.bad_images.labels("broken").inc(2)
    two.bad_images.labels("broken").inc(3)
    one.batch_images.observe(3)
    one.queued_images.value, two.queued_images.value = 4, 5
    assert 5 == value(merged, "bad_images_total", kind="broken")
    merged.remove(0)

    assert 5 == value(merged, "bad_images_total", kind="broken")
    assert 1 == value(merged, "batch_images_count")
    assert 5 == value(merged, "queued_images")
    after = Metrics()
    after.bad_images.labels("broken").inc(10)
    with exposed(after.registry, "127.0.0.1", 0) as port:
        merged.add(0, port)
        assert 15 == value(merged, "bad_images_total", kind="broken")


def test_a_replica_that_does_not_answer_counts_as_before():
    """A scrape does not fail, and no counter falls."""
    metrics, merged = Metrics(), MergedMetrics(Metrics().registry)
    metrics.bad_images.labels("broken").inc(2)
    with exposed(metrics.registry, "127.0.0.1", 0) as port:
        merged.add(0, port)
        assert 2 == value(merged, "bad_images_total", kind="broken")
    assert 2 == value(merged, "bad_images_total", kind="broken")
