"""From single images to batches: what is admitted, in which order it waits, and when a batch runs.

Every image is answered or refused here: nothing is dropped silently.

message ─► byte_budget ─► admission ─► decoder ─► priority_queue ─► batcher ─► models
                              └─ service_time: tells early which deadlines cannot be kept
"""
