"""What a model's answers show: accuracy, calibration, their intervals, and when a curve converges.

Nothing here runs a model: everything is computed from logits, or from stored predictions.

evaluation (logits) ─► calibration, intervals
stored predictions ─► metrics          validation accuracy by epoch ─► convergence
"""
