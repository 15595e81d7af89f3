"""The HTTP port: the methods of the gRPC services for browsers, curl and whatever speaks JSON.

connection (listener) ─► app ─► endpoints ─► calls ─► body (limits) ─► the gRPC method ─► JSON

HTTP decides nothing that gRPC decides. A request becomes the message that a gRPC client would have
sent, and goes through the same interceptor to the same servicer.
"""
