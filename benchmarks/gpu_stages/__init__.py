"""What the three GPU scripts run: stages under a time budget, on models and photos made there.

gpu_check.py, gpu_train.py and gpu_serve.py choose the stages; the report is whole after each one.

    gpu_check.py ──► check_training, check_serving ──► made (photos, a cache, a model)
    gpu_train.py ──► profiling                         models (served in one process)
    gpu_serve.py ──► loaded ──► load (callers in a process of their own)
           all   ──► rig (stages, budget, report) ──► machine (GPU, versions, commit)
"""
