"""The Python client of a server: `Classifier` for threads, `AsyncClassifier` for asyncio.

photos ─► wire (messages, retries) ─► one call, or many at once (bulk) ─► results (─► results_file)
"""

from service.client.aio_client import AsyncClassifier
from service.client.client import Classifier
from service.client.wire import Class, ModelInfo, Result

__all__ = ["AsyncClassifier", "Class", "Classifier", "ModelInfo", "Result"]
