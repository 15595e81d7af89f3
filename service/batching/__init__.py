"""From single images to batches: what may enter, in which order it waits, and when a batch is run.

image ─► admission ─► decoder ─► priority_queue ─► batcher ─► models
"""
