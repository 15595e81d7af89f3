"""A day's answers beside those on held-out photos: alike, different, and too few to say."""

import json
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from prometheus_client import start_http_server

from flows.release_gate import traffic
from service.models.metadata import OTHER, ModelMetadata
from service.observability.metrics import Metrics
from terminal import UserError
from tests.paths import ROOT

LABELS = ("a", "b", "c", "d")


def answers(rng, shares, confidence, count=500) -> dict:
    """Draw what a model that answers so would count."""
    predicted = rng.choice(LABELS, count, p=shares)
    values = np.clip(rng.normal(confidence, 0.08, count), 0.01, 1)
    return traffic.reference(list(predicted), list(values))


def test_the_same_traffic_is_hardly_ever_an_alarm_and_another_always():
    """Of 200 quiet days none is called drift; other dishes, or less sure answers, are."""
    rng = np.random.default_rng(0)
    even, skewed = [0.25] * 4, [0.7, 0.1, 0.1, 0.1]
    known = answers(rng, even, 0.8)
    rules = traffic.DriftRules()

    def drifted(shares, confidence, count=500):
        found = answers(rng, shares, confidence, count)
        return traffic.compare(known, found, 24, rules).drifted

    assert 0 == sum(drifted(even, 0.8) for _ in range(200))
    assert drifted(skewed, 0.8)
    assert drifted(even, 0.6)
    assert not drifted(skewed, 0.8, count=100), "too few images to say"


def test_with_thousands_of_classes_both_sides_are_folded_alike():
    """Of 5,000 classes 1,000 are counted by name: quiet days are no drift, a new favourite is."""
    rng = np.random.default_rng(2)
    labels = tuple(f"dish {at}" for at in range(5000))
    model = ModelMetadata(labels=labels, common=frozenset(labels[::5]), image_size=8, resize="")
    even = np.full(5000, 1 / 5000)

    def counted(shares, count):
        found = map(model.counted_as, rng.choice(labels, count, p=shares))
        return traffic.reference(found, np.clip(rng.normal(0.8, 0.08, count), 0.01, 1))

    def drifted(shares, count=3000):
        return traffic.compare(known, counted(shares, count), 24, traffic.DriftRules())

    known = counted(even, 1500)
    assert len(known["predictions"]) <= 1001
    assert not any(drifted(even).drifted for _ in range(100))
    favourite = even / 2 + np.eye(1, 5000, 5)[0] / 2  # a common class
    assert "dish 5" == drifted(favourite).moved[0][0]
    assert drifted(favourite).drifted
    rare = even * (np.arange(5000) % 5 > 0) * 5 / 4  # none of the common ones any more
    assert OTHER == drifted(rare).moved[0][0]


def test_equal_histograms_have_no_distance():
    """The index is 0 for the same shares, and grows with the difference."""
    assert 0 == traffic.stability_index([50, 50], [5000, 5000])
    near, far = (traffic.stability_index([500, 500], [x, 1000 - x]) for x in (600, 900))
    assert 0 < near < far


def test_a_day_is_the_growth_between_scrapes_also_over_a_restart():
    """A counter that begins anew is counted from nothing; another version is where it begins."""

    def scrape(time_s, started_s, count, version=2):
        bins = [0] * 11 + [count]
        return {"time_s": time_s * 3600, "started_s": started_s, "version": version,
                "predictions": {"a": count}, "confidence": bins}  # fmt: skip

    scrapes = [scrape(0, 1, 1000), scrape(30, 1, 1400), scrape(40, 9, 30), scrape(50, 9, 50)]

    found, hours = traffic.recent(scrapes, 24)

    # 1000 were older than a day; 400 came until the restart, 30 and 20 after it.
    assert 450 == found["predictions"]["a"]
    assert 450 == sum(found["confidence"])
    assert 50 == hours
    recent, _ = traffic.recent([scrape(0, 1, 1000, version=1), scrape(50, 1, 1070)], 24)
    assert 70 == recent["predictions"]["a"]


def test_replicas_are_added_up(tmp_path, monkeypatch):
    """A name with three addresses: each replica is asked, and its own growth is counted."""
    replicas = [Metrics() for _ in range(3)]
    folder = tmp_path / "food42" / "3"
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(
        json.dumps({"reference": {"predictions": {"a": 100}, "confidence": [0] * 10 + [100, 0]}})
    )
    servers = []
    for number, metrics in enumerate(replicas):
        metrics.model_version.labels("food42").set(3)
        port = servers[0][0].server_port if servers else 0
        servers.append(start_http_server(port, f"127.0.0.{number + 1}", registry=metrics.registry))
    port = servers[0][0].server_port
    hosts = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{at + 1}", port))
             for at in range(3)]  # fmt: skip
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda host, *rest, **more: hosts if host == "hansang" else look_up(host, *rest, **more),
    )  # fmt: skip

    def serve(*counts):
        for metrics, count in zip(replicas, counts, strict=True):
            for _ in range(count):
                metrics.predictions.labels("food42", "a").inc()
                metrics.confidence.labels("food42").observe(0.97)

    def images():
        rules = traffic.DriftRules(min_images=1)
        return traffic.check_drift(
            "food42", f"http://hansang:{port}/metrics", tmp_path, rules
        ).images

    try:
        serve(100, 20, 3)
        assert 123 == images()
        serve(10, 10, 10)
        assert 153 == images()
        # One that is away for a while is not counted twice when it is back.
        servers[2][0].shutdown()
        servers[2][0].server_close()
        serve(1, 1, 7)
        assert 155 == images()
        servers[2] = start_http_server(port, "127.0.0.3", registry=replicas[2].registry)
        assert 162 == images()
    finally:
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join()


def test_what_the_service_counts_is_read_and_compared(tmp_path):
    """Real counters over HTTP: equal answers are no drift, the second scrape finds the change."""
    metrics = Metrics()
    metrics.model_version.labels("food42").set(3)
    rng = np.random.default_rng(1)
    folder = tmp_path / "food42" / "3"
    folder.mkdir(parents=True)
    known = answers(rng, [0.25] * 4, 0.8)
    (folder / "release.json").write_text(json.dumps({"reference": known}))
    server, thread = start_http_server(0, "127.0.0.1", registry=metrics.registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def serve(shares, confidence):
        for label in rng.choice(LABELS, 600, p=shares):
            metrics.predictions.labels("food42", label).inc()
            metrics.confidence.labels("food42").observe(
                float(np.clip(rng.normal(confidence, 0.08), 0.01, 1))
            )

    rules = traffic.DriftRules(hours=1e-9)
    try:
        serve([0.25] * 4, 0.8)
        quiet = traffic.check_drift("food42", url, tmp_path, rules)
        serve([0.85, 0.05, 0.05, 0.05], 0.8)
        other = traffic.check_drift("food42", url, tmp_path, rules)
        with pytest.raises(UserError, match="serves no model 'else'"):
            traffic.check_drift("else", url, tmp_path, rules)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert (600, False) == (quiet.images, quiet.drifted), quiet
    assert (600, True) == (other.images, other.drifted)
    assert "a" == other.moved[0][0]
    with pytest.raises(UserError, match="is the service up"):
        traffic.check_drift("food42", url, tmp_path, rules)


@pytest.fixture
def metrics_url():
    """The address of a service's /metrics that knows no model."""
    server, thread = start_http_server(0, "127.0.0.1", registry=Metrics().registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_proxy_is_not_asked_for_this_machine(metrics_url):
    """With http_proxy set, the service's /metrics on the loopback is still read."""
    script = "import sys; from flows.release_gate.scrapes import scrape; scrape(sys.argv[1], 'x')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}
    environment |= {"no_proxy": "example.com", "NO_PROXY": ""}

    done = subprocess.run(
        [sys.executable, "-c", script, metrics_url], env=environment, capture_output=True, text=True
    )

    assert "serves no model 'x'" in done.stderr


def test_a_port_that_does_not_exist_is_refused_by_name(metrics_url):
    """The system would ask another port: 65536 and a number is that number."""
    port = int(metrics_url.split(":")[2].split("/")[0])

    with pytest.raises(UserError, match=r"cannot read .*Port out of range"):
        traffic.scrape(metrics_url.replace(str(port), str(port + 65536)), "x")


def test_a_port_that_speaks_no_http_is_a_sentence():
    """The service's gRPC port, say, answers with something else than HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"\0\0\x18\4\0\0\0\0\0\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match=r"is this the address of its /metrics"):
            traffic.scrape(f"http://127.0.0.1:{listener.getsockname()[1]}/metrics", "x")
        thread.join()


@pytest.mark.timeout(400)
def test_drift_raises_an_event_that_automations_can_hear(prefect_server):
    """The event is on Prefect's server, with the model as its resource and the numbers in it."""
    import time
    import urllib.request

    from prefect.settings import PREFECT_API_URL

    from flows.drift import raise_event_from_anywhere

    known = {"predictions": {"a": 300, "b": 300}, "confidence": [0] * 11 + [600]}
    found = {"predictions": {"a": 600, "b": 0}, "confidence": [0] * 11 + [600]}
    drift = traffic.compare(known, found, 24, traffic.DriftRules())
    assert drift.drifted

    raise_event_from_anywhere("food42", drift)

    wanted = {"filter": {"event": {"name": ["hansang.drift"]}}, "limit": 5}
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(  # noqa: S310
            f"{PREFECT_API_URL.value()}/events/filter", json.dumps(wanted).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            events = json.load(answer)["events"]
        if events:
            break
        assert time.monotonic() < deadline, "no event came"
        time.sleep(0.5)
    assert "hansang.model.food42" == events[0]["resource"]["prefect.resource.id"]
    assert 600 == events[0]["payload"]["images"]


def test_drift_is_measured_for_a_repository_in_a_bucket(bucket, monkeypatch):
    """Scrapes and held-out answers lie in the bucket; the second look counts from the first."""
    from pathlib import Path

    held = {"predictions": {"a": 500, "b": 500}, "confidence": [0] * 10 + [500, 500]}
    place = "bucket/models/food42"
    bucket.pipe_file(f"{place}/1/release.json", json.dumps({"reference": held}).encode())
    counts = {"started_s": 0.0, "version": 1, "server": "x"}
    looks = [
        {**counts, "time_s": 100.0 + number, "predictions": {"a": 500 * number, "b": 500 * number},
         "confidence": [0] * 10 + [500 * number, 500 * number]}
        for number in (1, 2)
    ]  # fmt: skip
    monkeypatch.setattr(traffic, "scrape", lambda *_: [looks.pop(0)])

    first, second = (
        traffic.check_drift("food42", "http://x", Path("s3://bucket/models"), traffic.DriftRules())
        for _ in range(2)
    )

    assert (1000, 2000, False) == (first.images, second.images, second.drifted)
    assert 2 == len(bucket.cat_file(f"{place}/.traffic.jsonl").splitlines())
