"""What runs on one machine without a Prefect deployment: the demo, `hansang up`, relabelling.

demo     draw ─► train ─► release ─► serve ─► classify
evaluate a model ─► its served answers on a folder ─► metrics ─► page
up       Prefect server ─► workers ─► service, started and stopped in order
relabel  corrected answers ─► photos in the folder of their class
"""
