"""The search for better settings: Optuna proposes trials, and workers share and prune them.

space_file, space, policies (what may be tried) ─► study, storages (who runs which trial)
    ─► search (a worker), rungs (pruning), workers ─► final (the winner, for longer)
    ─► study_report, study_plots
"""
