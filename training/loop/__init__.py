"""The training loop: from a configuration to a finished run, resumable at every step.

trainer ─► run (epochs) ─► batches ─► step (forward, backward) ─► optimizer, schedule ─► finish
"""
