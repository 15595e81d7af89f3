"""Pages and numbers about runs, made from their files alone: one run, several, or a tracker's copy.

run record ─► run_numbers, mistakes ─► report, plots
run records ─► compare ─► compare_page, compare_plots          seeds ─► gain
metrics.jsonl, as it grows ─► tracking (TensorBoard, MLflow)
"""
