"""Prefect flows over the road: the only room that may import both training and service.

`steps.py` and `demo.py` are plain functions for the command line; the other modules wrap the
same functions for Prefect.
"""

import os

# Prefect reads these once, when it is imported. Whoever set them outside is left alone.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The embedded server needs 12 to 30 s on a small machine; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}.items():
    os.environ.setdefault(_name, _value)

# No proxy reaches this machine's own servers: Prefect's, the service, its /metrics.
for _name in ("no_proxy", "NO_PROXY"):
    _hosts = [host for host in os.environ.get(_name, "").split(",") if host.strip()]
    os.environ[_name] = ",".join(dict.fromkeys([*_hosts, "localhost", "127.0.0.1", "::1"]))
