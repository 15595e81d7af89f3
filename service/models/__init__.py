"""Models on disk and in memory: which version serves, and the onnxruntime sessions that run it.

The repository is a folder in Triton's layout; in a bucket, it is copied to such a folder.

bucket ─► repository (versions, triton_config, checksums, history) ─► loading ─► model ─► instance
                                                                                     pool ◄─┘
"""
