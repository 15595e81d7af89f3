"""Prefect tasks that the flows share, and what those need.

tasks ─► children (a training as a process) ─► its run directory ─► artifacts ─► links
parameters (forms of the deployments)          start (what a fine-tuning starts from)
"""
