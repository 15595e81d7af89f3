"""Models on disk and in memory: which version serves, and the onnxruntime sessions that run it.

repository | bucket ─► model (a session) ─► instance ─► pool (swaps versions while serving)
"""
