"""`/metrics`: what a Prometheus would scrape."""

import asyncio
import json
import urllib.request

import pytest

from service.errors import UnavailableError
from service.observability.metrics import Metrics, exposed
from service.pb import classifier_pb2 as pb


def scrape(port: int) -> str:
    """Return the text of `/metrics`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


async def test_server_counts_what_it_does(publish, serve, connect, photo):
    """Calls by method and code, stages in seconds, batch sizes, bad images and the version."""
    publish("food")
    server = await serve(metrics_port=0)
    stub = connect(server.port)
    await stub.Classify(pb.ClassifyRequest(images=[photo("red"), b"junk", photo("blue")]))
    text = await asyncio.to_thread(scrape, server.metrics_port)
    for line in (
        'hansang_request_seconds_count{code="OK",method="/hansang.v1.Classifier/Classify"} 1.0',
        "hansang_decode_seconds_count 3.0",
        "hansang_queue_seconds_count 2.0",
        "hansang_compute_seconds_count 1.0",
        "hansang_batch_images_sum 2.0",
        'hansang_bad_images_total{kind="format"} 1.0',
        "hansang_queued_images 0.0",
        "hansang_admitted_images 0.0",
        'hansang_model_version{model="food"} 1.0',
        'hansang_rejected_images_total{reason="queue_full"} 0.0',
    ):
        assert line in text.splitlines()


async def test_thousands_of_classes_make_a_bounded_number_of_series(
    publish, serve, connect, photo, monkeypatch
):
    """A common class has a series of its own, rare ones share one, as later names do."""
    monkeypatch.setattr("service.api.inference._MAX_SERIES", 3)
    labels = [f"dish {at}" for at in range(3000)]

    def weights(*best):  # the class of each colour
        return [[0.05 * (at == of) for at in range(len(labels))] for of in best]

    def release(names, *best):
        common = {"common_labels": json.dumps(names[:1000])}
        publish("food", labels=names, weights=weights(*best), properties=common)

    async def counts(server):
        photos = [photo(colour) for colour in ("red", "green", "blue")]
        await connect(server.port).Classify(pb.ClassifyRequest(images=photos))
        series = server.metrics.predictions.collect()[0].samples
        return {each.labels["label"]: each.value for each in series if "total" in each.name}

    release(labels, 7, 2000, 2001)
    server = await serve(poll_interval_s=60)
    assert {"dish 7": 1, "(other)": 2} == await counts(server)
    release([f"new {at}" for at in range(3000)], 1, 2, 3)
    await server.models.load_model("food")
    assert {"dish 7": 1, "new 1": 1, "(other)": 4} == await counts(server)


async def test_none_serves_no_metrics(publish, serve):
    """Without a port nothing listens."""
    publish("food")
    assert (await serve(metrics_port=None)).metrics_port is None


def test_two_servers_in_a_process_count_apart():
    """Each has a registry of its own; both can be scraped."""
    one, two = Metrics(), Metrics()
    one.bad_images.labels("broken").inc()
    with (
        exposed(one.registry, "127.0.0.1", 0) as first,
        exposed(two.registry, "127.0.0.1", 0) as second,
    ):
        assert 'hansang_bad_images_total{kind="broken"} 1.0' in scrape(first)
        assert 'hansang_bad_images_total{kind="broken"} 0.0' in scrape(second)


def test_taken_port_is_a_clear_error():
    """The sentence names the port and the option."""
    registry = Metrics().registry
    with exposed(registry, "127.0.0.1", 0) as port, pytest.raises(UnavailableError) as caught:  # noqa: SIM117
        with exposed(registry, "127.0.0.1", port):
            pass
    assert str(port) in str(caught.value)
    assert "--metrics-port" in str(caught.value)
