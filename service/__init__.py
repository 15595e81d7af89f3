"""The gRPC service: onnxruntime behind a dynamic batcher; no torch, no onnx, no prefect.

Importing the package does one thing: since 1.29 onnxruntime phones home when it is imported,
and this switches that off before any module of the service can import it.
"""

import os

__version__ = "0.1.0"
"""The version of the whole package; a release is a tag `v` and this."""

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
