"""Prefect flows from a folder of photos to a serving model; the verbs that need both sides.

Only this package may import both `training` and `service`. Each flow is a module here; what the
flows are made of lies in the folders:

    pipeline = prepare ─► train (tune, finetune) ─► release        drift   (each is a flow)
        │
        ├─► tasks/          Prefect tasks; trainings run as child processes
        ├─► release_gate/   is the new model better than the one that serves? (no Prefect)
        ├─► prefect_setup/  deployments, work pools, a worker, locks
        └─► local/, cli/    one machine without Prefect; the verbs of the command line
"""

import os

# Prefect reads these once, when it is imported. Values from outside win.
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
