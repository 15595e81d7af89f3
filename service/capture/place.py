"""Where captured photos are kept, and whether they can be."""

from pathlib import Path

from service.capture.capture import Capture
from service.config import ServerConfig
from service.errors import InvalidArgumentError
from service.observability.metrics import Metrics
from storage import StorageError, bucket_url, storage_of


def open_capture(config: ServerConfig, metrics: Metrics) -> Capture | None:
    """Return what keeps photos as a server is told to; None if it is to keep none.

    Raises:
        InvalidArgumentError: The place cannot be read or written.
    """
    place = config.capture
    if not place:
        return None
    storage = storage_of(place)
    try:
        if bucket_url(place) is None:
            # Photos of callers are for the operator alone.
            Path(place).mkdir(mode=0o700, parents=True, exist_ok=True)
        storage.write(".writable", b"")
        storage.remove(".writable")
    except (StorageError, OSError) as error:
        raise InvalidArgumentError(f"--capture {place}: {error}") from error
    return Capture(
        storage, below=config.capture_below, rate=config.capture_rate,
        max_bytes=int(config.capture_max_gb * 2**30), metrics=metrics,
    )  # fmt: skip
