"""Every setting of the server: its default, its range, its flag and its help, in one place.

service/cli/serve_options.py makes the flags of `hansang serve` from these fields, and
docs/generate.py the table of docs/reference/server-settings.md.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from machine import num_cores
from service.devices import problem_of

MAX_IMAGES_PER_CALL = 64
CPU_ENGINES = ("auto", "onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a field of `ServerConfig` has besides its type and default."""

    help: str
    """One line for `hansang serve --help`; the text below the field says more."""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    """The values that are allowed. Empty: any."""
    flag: str | None = ""
    """Its flag. Empty: that of its name; None: it has none."""
    default_text: str = ""
    """What the help shows as default instead of the value."""

    @classmethod
    def of(cls, field: Field[Any]) -> Self:
        """Return the setting of a field of `ServerConfig`."""
        found: Self = field.metadata["setting"]
        return found


def _setting(
    default: Any, help_: str, low: float | None = None, high: float | None = None, **more: Any
) -> Any:
    setting = Setting(help=help_, low=low, high=high, **more)
    return field(default=default, metadata={"setting": setting})


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """The settings of a server.

    Raises:
        InvalidArgumentError: A value is outside its range; the message names the field.
    """

    repository: Path = _setting(Path("models"), "The model repository, also s3://…")
    """The model repository: a folder or `s3://bucket/prefix`, with a folder per model, in Triton's
    layout."""

    model: str = _setting("", "Serve this model alone.", default_text="all of them")
    """The one model to serve. Empty: every model of the repository, new ones as they appear."""

    wait_for_model: bool = _setting(False, "Wait for the first release, not serving yet.")
    """Wait while the repository is empty, with health NOT_SERVING, instead of ending."""

    host: str = _setting("0.0.0.0", "Address to listen on.")  # noqa: S104  # it is to be reached
    """Address to listen on: gRPC, HTTP and, unless it has its own, metrics."""

    port: int = _setting(8500, "gRPC port; 0: a free one.", 0, 65535)
    """gRPC port; 0 takes a free one."""

    http_port: int | None = _setting(8080, "HTTP port, and a page to try it; 0: none.", 0, 65535)
    """Port of the same methods over HTTP, and of the page to try them. 0 takes a free one, None
    serves none; on the command line, 0 serves none."""

    no_page: bool = _setting(False, "No page at / over HTTP, only the methods.")
    """Leave out the page to try the service, at `/` over HTTP."""

    cors_origin: list[str] | None = _setting(
        None, "A site whose pages may call over HTTP; may be given again."
    )
    """Sites whose pages may call over HTTP, such as `https://kitchen.example`; `*` is any."""

    metrics_host: str = _setting("", "Address of /metrics.", default_text="that of gRPC")
    """Address of `/metrics`. Empty: that of gRPC."""

    metrics_port: int | None = _setting(8002, "Port of /metrics; 0: none.", 0, 65535)
    """Port of `/metrics`. 0 takes a free one, None serves none; on the command line, 0 serves
    none."""

    reflection: str = _setting("on", "on, off, or HOST:PORT for a port of its own.")
    """`on`: reflection on the gRPC port; `off`: none; `HOST:PORT`: on a port of its own, where
    nothing else answers."""

    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, cuda:0,cuda:1 or tensorrt.")
    """`auto`: CUDA if there is a GPU, else the CPU. `cuda`: the first GPU computes all of a model,
    or the server does not start; `cuda:1` is the second one. Of several, `cuda:0,cuda:1`, each runs
    the whole model, and batches go to whichever is free; of `workers` each has one of them.
    `cpu`: no GPU is used. `tensorrt`: the first GPU by NVIDIA's plugin
    `onnxruntime-ep-nv-tensorrt-rtx-cu13`, which is installed by itself; a model whose answers are
    not those of a CPU is refused there."""

    cpu_engine: str = _setting("auto", "Engine on a CPU.", choices=CPU_ENGINES)
    """`auto`: OpenVINO's plugin (the extra `openvino`) where it computes in bf16, or int8 faster;
    else onnxruntime itself. `openvino`: the plugin, or the server does not start."""

    cpu_precision: str = _setting("auto", "auto or fp32, on a CPU.", choices=("auto", "fp32"))
    """`auto`: bf16 where a model's release allows it, by OpenVINO, on CPUs that multiply it (AMX or
    AVX-512 BF16). `fp32`: never."""

    max_batch: int = _setting(32, "Most images in a run.", 1, 1024)
    """Most images in one run of the model."""

    max_delay_ms: float = _setting(25.0, "Longest wait for a fuller batch, while busy.", 0, 1000)
    """How long a batch waits at most for more images, while another batch runs. It waits a quarter
    of the time that it will take; while the model is idle, nothing waits."""

    queue_size: int = _setting(512, "Most images in the server.", MAX_IMAGES_PER_CALL, 2**20)
    """Most images of a model in the server, from arrival to answer. Calls beyond it are refused at
    once."""

    workers: int = _setting(
        0, "Replicas on the port, each with models of its own; 0: one process.", 0, 256
    )
    """Replicas: whole servers, each a process with models of its own, that share the port. 0 and 1:
    only the process that was started. Replicas get equal parts of `queue_size`,
    `max_bytes_in_flight` and `max_streams`."""

    runs: int = _setting(0, "Runs at a time; 0: one per core, two on CUDA.", 0, 1024)
    """Batches computed at the same time, in one session. 0: one per core on a CPU, whose cores
    `workers` share; two on CUDA, where one computes while the other is copied.

    Measured on 2 cores with ResNet18: callers that share a one-thread session compute as many
    images per CPU-second as with a session each (274 at 64 px, batch 16; one two-thread session
    245), and the weights are in memory once."""

    intra_op_threads: int = _setting(1, "Threads within a run.", 1, 1024)
    """Threads within one run. More runs are better than more threads, if there are enough
    batches."""

    decode_threads: int = _setting(0, "Threads that decode; 0: one per core.", 0, 1024)
    """Threads that decode what the threads of the model do not: large photos and rare formats, and
    on CUDA all photos. 0: one per core; `workers` share the cores."""

    keep_versions: int = _setting(1, "Versions of a model that stay loaded.", 1, 100)
    """Versions of a model that stay loaded: the one that serves and those that served before it,
    for callers that name a version."""

    model_control: bool = _setting(False, "Let callers load and unload models.")
    """Let callers load and unload models; with `tokens`, only those marked `admin`. Not with
    `workers`, because a call reaches only one of them."""

    tls_certificate: Path | None = _setting(
        None, "Certificate chain, PEM; followed when it changes."
    )
    """The server's certificate chain, PEM; read again when it changes. None: no TLS."""

    tls_key: Path | None = _setting(None, "Its private key, PEM.")
    """The certificate's private key, PEM."""

    tls_client_ca: Path | None = _setting(
        None, "Callers must show a certificate signed by it (mTLS)."
    )
    """Authority that must have signed the certificates of callers (mTLS), PEM. None: no mTLS."""

    tokens: Path | None = _setting(None, "File of callers; see: hansang token --help.")
    """File of the callers and their tokens, read again when it changes. None: anyone may call."""

    max_message_bytes: int = _setting(16 * 2**20, "Largest message taken.", 2**16, 2**30)
    """Largest message taken or sent, uncompressed: 64 photos of 250 kB."""

    max_bytes_in_flight: int = _setting(
        256 * 2**20, "Most bytes of messages in the server.", 2**16, 2**40
    )
    """Most bytes of messages that are being read, and of images that are in work. Calls beyond it
    are refused, streams wait, and bulk gets three quarters of it. Over gRPC a message that is being
    read counts as `max_message_bytes`.

    It bounds memory. Besides the loaded models and what decoding takes, three times
    `max_bytes_in_flight` is held at most, and twice `max_message_bytes` for each of `max_streams`.
    A message is held as it came and as its images, and for a moment as bytes before it is parsed.
    malloc may keep a quarter more resident."""

    max_decode_bytes: int = _setting(0, "Most memory for decoding; 0: a quarter of all.", 0, 2**40)
    """Most memory that pictures take while they are decoded. What takes more is refused, and what
    is not free now is waited for. Small photos are not counted: 8 MiB for each thread. 0: a quarter
    of the machine's memory, or of the container's limit."""

    max_streams: int = _setting(32, "Most open streams.", 1, 2**16)
    """Most streams open at a time, besides those of health. All of them may begin to send a message
    at the same time."""

    drain_delay_s: float = _setting(
        2.0, "Calls taken after SIGTERM, in seconds.", 0, 3600, flag="--drain-delay"
    )
    """How long calls are still taken after SIGTERM, while health says NOT_SERVING. Load balancers
    need that long to choose another server."""

    drain_s: float = _setting(20.0, "Longest drain after that.", 0, 3600)
    """How long calls in flight may take after that; then they are cut off."""

    run_timeout_s: float = _setting(30.0, "A run that takes longer hangs: exit.", 0.1, 3600)
    """A run of a model, or a step of the event loop, that takes longer counts as hanging: the
    process ends."""

    fault_exit_s: float = _setting(30.0, "No model works for so long: exit.", 0, 3600)
    """If the runs of every model fail for so long, the process ends, for its orchestrator to start
    a new one."""

    capture: str = _setting("", "Keep some photos there, also s3://…", default_text="no photos")
    """Folder or `s3://…` where a sample of the photos is kept, each with its answer beside. Empty:
    none is kept. Photos are of people's callers: docs/guides/captured-photos.md."""

    capture_below: float | None = _setting(
        None, "Keep answers less confident than this.", 0, 1,
        default_text="the model's threshold, or 0.5",
    )  # fmt: skip
    """Photos whose answer has less confidence are kept. None: those that are below the threshold of
    their model (`hansang release --min-confidence`), or below 0.5 where it has none."""

    capture_rate: float = _setting(0.01, "Keep this share of the others.", 0, 1)
    """The share of all other photos that is kept, at random."""

    capture_max_gb: float = _setting(2.0, "Keep no more than that.", 0.000001, 1e6)
    """Most GiB of kept photos, checked once a minute. Then no more are kept, and the service goes
    on."""

    otlp_endpoint: str = _setting("", "Where traces go, such as http://localhost:4317.")
    """Where traces go, such as `http://localhost:4317`. Empty: nowhere."""

    log_format: str = _setting("text", "Logs on stderr.", choices=("text", "json"))
    """`text` for people, `json` for machines."""

    log_level: str = _setting(
        "info", "debug: a line for every call.", choices=("debug", "info", "warning", "error")
    )
    """`debug` (which logs every call), `info`, `warning` or `error`."""

    poll_interval_s: float = _setting(1.0, "", 0.01, 3600, flag=None)
    """How often the repository is checked for a new serving version."""

    @property
    def cores(self) -> int:
        """How many cores one process may use; replicas share those of the machine."""
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
        """Return all settings as JSON, for another process of this machine."""
        return json.dumps(asdict(self), default=str)

    def __post_init__(self) -> None:
        # As in URLs; sockets want IPv6 without brackets.
        object.__setattr__(self, "host", self.host.removeprefix("[").removesuffix("]"))
        # Imported here, since grpc takes long and the command line only needs the flags.
        from service.errors import InvalidArgumentError

        if problem := self._problem():
            raise InvalidArgumentError(problem)

    def _problem(self) -> str:
        """Return what is wrong with these settings; empty if nothing is."""
        for each in fields(self):
            setting, value = Setting.of(each), getattr(self, each.name)
            low, high = setting.low, setting.high
            bounded = low is not None and high is not None and value is not None
            if bounded and not low <= value <= high:
                return f"{each.name} must be {low} to {high}, not {value}"
            if setting.choices and value not in setting.choices:
                return f"{each.name} must be one of {', '.join(setting.choices)}, not {value!r}"
        if problem := problem_of(self.device):
            return problem
        for origin in self.cors_origin or ():
            if origin != "*" and not re.fullmatch(r"https?://[^/]+", origin):
                return f"cors_origin must be like https://host:port, or *, not {origin!r}"
        if (self.tls_certificate is None) != (self.tls_key is None):
            return "tls_certificate and tls_key are given together"
        if self.workers > 1 and self.model_control:
            return (
                "model_control needs one process: a call reaches one of the workers alone; release"
                " and roll back in the repository, which all of them follow, or leave workers out"
            )
        if self.tls_client_ca is not None and self.tls_certificate is None:
            return "tls_client_ca needs tls_certificate and tls_key"
        if self.reflection not in ("on", "off"):
            _, _, port = self.reflection.rpartition(":")
            if not (port.isascii() and port.isdigit() and ":" in self.reflection):
                return f"reflection must be on, off or HOST:PORT, not {self.reflection!r}"
        return ""
