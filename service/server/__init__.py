"""One server from start to drain: its ports, its health, its watchdog and its exit code.

process (signals) ─► server (start, serve, drain) ─► api; watchdog and health look on
replicas (a parent) ─► replica ─► process: several servers on one port
"""
