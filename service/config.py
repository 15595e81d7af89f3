"""Every setting of the server, checked at birth."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from service.errors import InvalidArgumentError

DEVICES = ("auto", "cuda", "cpu")

MAX_IMAGES_PER_CALL = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """What `hansang serve` is told.

    Raises:
        InvalidArgumentError: A value is outside its range; the message names the field.
    """

    repository: Path = Path("models")
    """The model repository: a folder per model, in Triton's layout."""

    model: str = ""
    """The one model to serve. Empty: every model of the repository, new ones as they appear."""

    wait_for_model: bool = False
    """Whether an empty repository is waited for, with health NOT_SERVING, instead of refused."""

    host: str = "0.0.0.0"  # noqa: S104  # a server is there to be reached
    """Address to listen on, for gRPC and for metrics."""

    port: int = 8500
    """gRPC port; 0 takes a free one."""

    http_port: int | None = 8080
    """Port of the same methods over HTTP, and of the page to try them; 0 takes a free one, None
    serves none."""

    no_page: bool = False
    """Whether `/` over HTTP is left out: the page to try the service."""

    cors_origin: Sequence[str] | None = None
    """Sites whose pages may call over HTTP, such as `https://kitchen.example`; `*` is any."""

    metrics_port: int | None = 8002
    """Port of `/metrics`; 0 takes a free one, None serves none."""

    metrics_host: str = ""
    """Address of `/metrics`. Empty: that of gRPC."""

    reflection: str = "on"
    """`on`: reflection on the gRPC port; `off`: none; `HOST:PORT`: on a port of its own, where
    nothing else answers."""

    tls_certificate: Path | None = None
    """The server's certificate chain, PEM; read again when it changes. None: no TLS."""

    tls_key: Path | None = None
    """The certificate's private key, PEM."""

    tls_client_ca: Path | None = None
    """Callers must show a certificate that this authority signed (mTLS). None: they need none."""

    tokens: Path | None = None
    """File of the callers (`service/api/auth.py`), read again when it changes; None: any may."""

    model_control: bool = False
    """Whether callers may load and unload models. With `tokens`, those marked `admin`.
    Not with `workers`: a call reaches one of them alone."""

    keep_versions: int = 1
    """Versions of a model that stay loaded: the one that serves, and those that served before it,
    for callers that name a version."""

    device: str = "auto"
    """`cuda` (or fail), `cpu`, or `auto`: CUDA if it can be had, else the CPU."""

    max_batch: int = 32
    """Most images in one run of the model."""

    max_delay_ms: float = 25.0
    """How long the first image of a batch waits for company beside a larger batch that runs, at
    most: it waits a quarter of what the batch will take. Nothing waits while the model is idle."""

    queue_size: int = 512
    """Most images in the server, from arrival to answer; calls beyond it are refused at once."""

    workers: int = 0
    """Replicas: whole servers, each a process with models of its own, that share the port. 0 and 1:
    one process, the one that was started. `queue_size`, `max_bytes_in_flight` and `max_streams`
    are divided among replicas."""

    runs: int = 0
    """Batches computed at the same time, in one session. 0: one per core on a CPU, whose cores
    `workers` share; two on CUDA, where one computes while the other is copied.

    Measured on 2 cores with ResNet18: callers that share a one-thread session compute as many
    images per CPU-second as a session each (274 at 64 px, batch 16; one two-thread session 245),
    and the weights are in memory once."""

    intra_op_threads: int = 1
    """Threads within one batch. More workers beat more threads, where there are batches enough."""

    decode_threads: int = 0
    """Threads that decode what those of the model do not: large photos and rare kinds, on CUDA all.
    0: one per core; `workers` share the cores."""

    max_message_bytes: int = 16 * 2**20
    """Largest message taken or sent: 64 photos of 250 kB, unpacked where it is compressed."""

    max_bytes_in_flight: int = 256 * 2**20
    """Most bytes of messages that are being read, and of images that are being worked on; calls
    beyond it are refused, streams wait, and bulk has three quarters of it. Over gRPC a message
    that is being read counts as `max_message_bytes`.

    It bounds memory: beside the loaded models and what decoding takes, resident stay at most three
    times `max_bytes_in_flight` and twice `max_message_bytes` for each of `max_streams`. A message
    is held as it came and as its images, and for a moment as bytes that are not parsed yet."""

    max_streams: int = 32
    """Most streams open at a time, health's apart. Each may begin to send a message when all the
    others do."""

    drain_delay_s: float = 2.0
    """How long calls are still taken after SIGTERM, while health says NOT_SERVING: balancers need
    that long to look elsewhere."""

    drain_s: float = 20.0
    """How long calls in flight may take to end after that; then they are cut off."""

    run_timeout_s: float = 30.0
    """A run of a model, or a turn of the event loop, that takes longer hangs: the process ends."""

    fault_exit_s: float = 30.0
    """Once the runs of every model have failed for so long, the process ends, for its orchestrator
    to start anew."""

    otlp_endpoint: str = ""
    """Where traces go, such as `http://localhost:4317`. Empty: nowhere."""

    poll_interval_s: float = 1.0
    """How often the repository is looked at for a new serving version."""

    log_format: str = "text"
    """`text` for people, `json` for machines."""

    log_level: str = "info"
    """`debug` (with a line for every call), `info`, `warning` or `error`."""

    @property
    def cores(self) -> int:
        """The cores that one process may count on; replicas share those of the machine."""
        return max(num_cores() // max(self.workers, 1), 1)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        paths = {
            name: Path(values[name])
            for name in ("repository", "tls_certificate", "tls_key", "tls_client_ca", "tokens")
            if values[name] is not None
        }
        return cls(**{**values, **paths})

    def to_json(self) -> str:
        """Return all of it for another process of this machine."""
        return json.dumps(asdict(self), default=str)

    def __post_init__(self) -> None:
        # As in URLs; sockets want IPv6 without.
        object.__setattr__(self, "host", self.host.removeprefix("[").removesuffix("]"))
        limits = {
            "port": (0, 65535),
            "http_port": (0, 65535),
            "metrics_port": (0, 65535),
            "max_batch": (1, 1024),
            "max_delay_ms": (0, 1000),
            "queue_size": (MAX_IMAGES_PER_CALL, 2**20),
            "workers": (0, 256),
            "runs": (0, 1024),
            "intra_op_threads": (1, 1024),
            "decode_threads": (0, 1024),
            "max_message_bytes": (2**16, 2**30),
            "keep_versions": (1, 100),
            "max_bytes_in_flight": (2**16, 2**40),
            "max_streams": (1, 2**16),
            "drain_delay_s": (0, 3600),
            "drain_s": (0, 3600),
            "run_timeout_s": (0.1, 3600),
            "fault_exit_s": (0, 3600),
            "poll_interval_s": (0.01, 3600),
        }
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise InvalidArgumentError(f"{field} must be {low} to {high}, not {value}")
        choices = {
            "device": DEVICES,
            "log_format": ("text", "json"),
            "log_level": ("debug", "info", "warning", "error"),
        }
        for field, those in choices.items():
            value = getattr(self, field)
            if value not in those:
                raise InvalidArgumentError(
                    f"{field} must be one of {', '.join(those)}, not {value!r}"
                )
        for origin in self.cors_origin or ():
            if origin != "*" and not re.fullmatch(r"https?://[^/]+", origin):
                raise InvalidArgumentError(
                    f"cors_origin must be like https://host:port, or *, not {origin!r}"
                )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidArgumentError("tls_certificate and tls_key are given together")
        if self.workers > 1 and self.model_control:
            raise InvalidArgumentError(
                "model_control needs one process: a call reaches one of the workers alone; release"
                " and roll back in the repository, which all of them follow, or leave workers out"
            )
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InvalidArgumentError("tls_client_ca needs tls_certificate and tls_key")
        if self.reflection not in ("on", "off"):
            _, _, port = self.reflection.rpartition(":")
            if not (port.isascii() and port.isdigit() and ":" in self.reflection):
                raise InvalidArgumentError(
                    f"reflection must be on, off or HOST:PORT, not {self.reflection!r}"
                )


_CGROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has.

    A container's share of CPU time counts as well: half a core is one, two and a half are three.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return min(cores, _quota() or cores)


def _quota() -> int | None:
    """Return the cores that the control group grants, of version 2 or 1; None where it does not."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max"
        return None
