"""The gRPC services: who may call, how a message is read, and how an answer is built.

Two services share everything behind them: our own `hansang.v1.Classifier`, and the Open Inference
Protocol for clients made for Triton.

call ─► interceptors (admission check, auth, errors) ─► classifier | open_inference ─► inference
          auth (tokens, quotas) · tls                    tensors · descriptions · streams  │
                                                                                   batching ◄─┘
"""
