"""One server from start to drain: its ports, its health, its watchdog and its exit code.

With `--workers`, a parent keeps several such servers on one port.

process (signals, exit code) ─► server (start, serve, drain) ─► services ─► api
                                   ├─ grpc_port, and the HTTP port of service.http
                                   ├─ health: what orchestrators ask (health_probe)
                                   └─ watchdog: models that fail or hang
replicas (a parent) ─► replica ─► process: several servers on one port
"""
