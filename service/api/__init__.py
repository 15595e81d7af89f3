"""The gRPC services: who may call, how a message is read, and how an answer is built.

call ─► interceptors (auth, limits, errors) ─► classifier | open_inference ─► inference ─► batching
"""
