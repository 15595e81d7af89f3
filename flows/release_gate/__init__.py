"""Whether a run replaces the model that serves, and whether what serves has drifted since.

run ─► evaluation (held_out, measure) ─► gate (rules) ─► candidate ─► publish
/metrics ─► traffic ─► drift or none           photos ─► changes ─► is a training due?
"""
