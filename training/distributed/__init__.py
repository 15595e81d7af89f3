"""Several processes: one run on many GPUs, or many runs shared by many processes.

launch (torchrun) ─► world (ranks); job_claims (which process takes which run)
"""
