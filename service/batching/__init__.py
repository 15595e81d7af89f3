"""From single images to batches: what is admitted, in which order it waits, and when a batch runs.

An image is refused here or answered here: nothing is dropped silently.

image ─► admission ─► decoder ─► priority_queue ─► batcher ─► models
             └─ service_time: an estimate that tells early which deadlines cannot be kept
"""
