"""Photos on disk become batches on a device. Every photo is decoded once, by the server's function.

folder ─► dataset (splits) ─► prepare, decoding ─► cache ─► loader, at the rows of the sampler
                                 augment_parameters ─► augmentation, trivial_augment ◄─┘
"""
