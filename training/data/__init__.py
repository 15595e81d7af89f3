"""Photos on disk become batches on a device.

folder ─► dataset (split) ─► prepare, decoding ─► cache ─► loader + sampler ─► augmentation
"""
