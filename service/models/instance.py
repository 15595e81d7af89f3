"""One loaded version of a model, its batcher, and statistics of the calls it answered."""

from dataclasses import dataclass, field
from time import time

from service.batching.batcher import Batcher
from service.models.model import Model
from service.observability.tracing import Stages


@dataclass(kw_only=True, slots=True)
class Statistics:
    """Counts of the calls that a version answered; times are sums, in seconds."""

    calls: int = 0
    images: int = 0
    failed_calls: int = 0
    last_at_ms: int = 0
    """When the last call was answered, in milliseconds since 1970."""
    failed_s: float = 0.0
    stages_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("call", "decode", "queue", "compute", "answer"), 0.0)
    )

    def answered(self, images: int, seconds: float, stages: Stages) -> None:
        """Count a call of `images` images that took `seconds` in all."""
        self.calls += 1
        self.images += images
        self.last_at_ms = int(time() * 1000)
        self.stages_s["call"] += seconds
        for name, (start_s, end_s) in stages.items():
            self.stages_s[name] += end_s - start_s


@dataclass(kw_only=True, eq=False)
class ModelInstance:
    """One loaded version of a model, and the batcher that feeds it."""

    name: str
    version: int
    model: Model
    batcher: Batcher
    statistics: Statistics = field(default_factory=Statistics)
    fault: str = ""
    """Why its runs fail; empty while they succeed."""
