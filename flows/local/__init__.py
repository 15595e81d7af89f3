"""What the command line does on one machine without Prefect: demo, up, traffic, relabel."""
