"""How Prefect is set up, so that a run survives kills, crashes and restarts without a person.

deploy  ─► pools, deployments (prefect.yaml), automations that begin crashed runs again
worker  a container's first process: it ends only when a training has saved
survival  locks: one training per GPU, one process per run
"""
