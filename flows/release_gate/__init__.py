"""Whether a run replaces the model that serves.

run ─► release_steps (weigh) ─► served (both models answer) ─► gate (rules) ─► published | kept
"""
