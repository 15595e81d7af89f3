"""What every replica of the service counted so far, read from its /metrics."""

import http.client
import socket
import time
import urllib.parse
import urllib.request
from typing import Any

from terminal import UserError

BINS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Upper ends of the confidence bins: those of the service's `hansang_confidence`."""

_MAX_BYTES = 64 * 2**20


def scrape(url: str, model: str) -> list[dict[str, Any]]:
    """Read the counters of one model from every replica, those of the newest version last.

    A name may stand for several addresses, as that of a headless service on Kubernetes does. Each
    one is asked; one that does not answer is left out while another one does.

    Args:
        url: The address of /metrics.
        model: The model's name.

    Returns:
        For each replica: its address, the time and its start in Unix seconds, the version that
        serves, and the counts.

    Raises:
        UserError: No replica can be reached, or none serves this model.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--metrics {url}: give the address of the service's /metrics, http://…")
    found: list[dict[str, Any]] = []
    faults: list[UserError] = []
    time_s = time.time()
    for address in _addresses(url):
        try:
            counts = _counts(_read(address, url), model, url)
            found.append({"time_s": time_s, "server": address, **counts})
        except UserError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return sorted(found, key=lambda each: each["version"])


def _addresses(url: str) -> list[str]:
    """Return the URL once for each address of its host; as it is where there is only one."""
    from service.addresses import with_port

    try:
        # The system would take a port above 65535 for another one; this raises ValueError.
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 80
        if parts.scheme == "https":  # a certificate is of the name
            return [url]
        infos = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return [url]  # reading it says what is wrong
    # Of one family: a server with both has an address of each.
    family = min(info[0] for info in infos)
    hosts = sorted({str(info[4][0]) for info in infos if info[0] == family})
    if len(hosts) < 2:
        return [url]
    return [parts._replace(netloc=with_port(host, port)).geturl() for host in hosts]


def _read(address: str, url: str) -> str:
    try:
        _ = urllib.parse.urlsplit(address).port
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  # checked before
            text: str = answer.read(_MAX_BYTES).decode()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot read {url}: {error or type(error).__name__}; is the service up, and is this"
            " the address of its /metrics (hansang serve --metrics-port, 8002 by default)?"
        ) from error
    return text


def _counts(text: str, model: str, url: str) -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise UserError(f"cannot read {url}: {error}; is this the service's /metrics?") from error
    predictions: dict[str, float] = {}
    cumulative: list[tuple[float, float]] = []
    started, version = 0.0, None
    for sample in (sample for family in families for sample in family.samples):
        mine = sample.labels.get("model") == model
        if sample.name == "process_start_time_seconds":
            started = sample.value
        elif mine and sample.name == "hansang_predictions_total":
            predictions[sample.labels["label"]] = sample.value
        elif mine and sample.name == "hansang_confidence_bucket":
            cumulative.append((float(sample.labels["le"]), sample.value))
        elif mine and sample.name == "hansang_model_version":
            version = int(sample.value)
    if version is None:
        raise UserError(f"{url} serves no model {model!r}")
    # Values beyond the last bin are rounding above 1.
    ends = [value for end, value in sorted(cumulative) if end <= 1] or [0.0] * len(BINS)
    bins = [now - before for now, before in zip(ends, [0.0, *ends[:-1]], strict=True)]
    return {
        "started_s": started, "version": version,
        "predictions": predictions, "confidence": bins,
    }  # fmt: skip
