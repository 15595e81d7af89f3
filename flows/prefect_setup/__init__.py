"""Setting Prefect up: deployments, work pools, a worker, and runs that survive restarts."""
