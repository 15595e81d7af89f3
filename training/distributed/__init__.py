"""Several processes: one run shared by many GPUs, or many runs shared by many processes.

launch (torchrun) ─► world (ranks, and what they agree on)
job_claims (which process trains which run)
"""
