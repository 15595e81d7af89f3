"""`hansang serve --workers N`: front ends that speak gRPC, and one process that holds the models.

front_end ─► remote_model ─► channel (messages, shared pixels) ─► connection ─► model_process
"""
