"""The verbs of the command line that need photos or runs, but no Prefect and no server.

hansang.py ─► data (sample, inspect, prepare), train, tune, study, reports
                └─ options (shared by verbs), tables (what is printed)
"""
