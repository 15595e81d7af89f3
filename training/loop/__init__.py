"""The training loop: from a configuration to a finished run, which can resume at every step.

trainer ─► run (epochs, saves) ─► batches (StepData) ─► learner (forward, backward) ─► finish
              │                                            └─ optimizer, schedule, state
              └─ saving, annealed_preview, batch_finder, stopping
"""
