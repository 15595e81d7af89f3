"""The run directory: settings, metrics, checkpoints and result, each file complete or absent.

run_directory (config.json, metrics.jsonl) ─► checkpoint ─► result ─► run_record (reads it all)
"""
