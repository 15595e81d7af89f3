"""Prefect tasks that the flows share, with their parameters, child processes and artifacts."""
