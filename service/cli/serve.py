"""The verbs of the service: serve, token, rollback. `classify` has a module of its own."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from terminal import print_json, say

Repository = Annotated[Path, typer.Option(help="The model repository, also s3://…")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def serve(
    repository: Repository = Path("models"),
    model: Annotated[
        str, typer.Option(help="Serve this model alone.", show_default="all of them")
    ] = "",
    wait_for_model: Annotated[
        bool, typer.Option("--wait-for-model", help="Wait for the first release, not serving yet.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0: a free one.")] = 8500,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port, and a page to try it; 0: none.")
    ] = 8080,
    no_page: Annotated[
        bool, typer.Option("--no-page", help="No page at / over HTTP, only the methods.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call over HTTP; may be given again."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address of /metrics.", show_default="that of gRPC")
    ] = "",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: none.")
    ] = 8002,
    reflection: Annotated[
        str, typer.Option(help="on, off, or HOST:PORT for a port of its own.")
    ] = "on",
    device: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="auto: CUDA if it can be had.")
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="Most images in a run.")] = 32,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, help="Longest wait for a fuller batch, while busy.")
    ] = 25.0,
    queue_size: Annotated[int, typer.Option(min=64, help="Most images in the server.")] = 512,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Replicas on the port, each with models of its own; 0: one process."
        ),
    ] = 0,
    runs: Annotated[
        int, typer.Option(min=0, help="Runs at a time; 0: one per core, two on CUDA.")
    ] = 0,
    intra_op_threads: Annotated[int, typer.Option(min=1, help="Threads within a run.")] = 1,
    decode_threads: Annotated[
        int, typer.Option(min=0, help="Threads that decode; 0: one per core.")
    ] = 0,
    keep_versions: Annotated[
        int, typer.Option(min=1, help="Versions of a model that stay loaded.")
    ] = 1,
    model_control: Annotated[
        bool, typer.Option("--model-control", help="Let callers load and unload models.")
    ] = False,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Certificate chain, PEM; followed when it changes.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Callers must show a certificate signed by it (mTLS).")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="File of callers; see: hansang token --help.")
    ] = None,
    max_message_bytes: Annotated[int, typer.Option(min=2**16, help="Largest message taken.")] = 16
    * 2**20,
    max_bytes_in_flight: Annotated[
        int, typer.Option(min=2**16, help="Most bytes of messages in the server.")
    ] = 256 * 2**20,
    max_streams: Annotated[int, typer.Option(min=1, help="Most open streams.")] = 32,
    drain_delay_s: Annotated[
        float, typer.Option("--drain-delay", min=0, help="Calls taken after SIGTERM, in seconds.")
    ] = 2.0,
    drain_s: Annotated[float, typer.Option(min=0, help="Longest drain after that.")] = 20.0,
    run_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="A run that takes longer hangs: exit.")
    ] = 30.0,
    fault_exit_s: Annotated[
        float, typer.Option(min=0, help="No model works for so long: exit.")
    ] = 30.0,
    otlp_endpoint: Annotated[
        str, typer.Option(help="Where traces go, such as http://localhost:4317.")
    ] = "",
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Logs on stderr.")] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="debug: a line for every call."),
    ] = "info",
) -> None:
    """Serve the models of a repository over gRPC and HTTP, and follow what is released into it.

    Ends with 0 after SIGTERM, when the calls in flight are answered, and with 70 when no model
    works any more.

    Example: hansang serve --repository models --port 8500
    """
    settings = dict(locals())
    # The first process of a container is deaf to SIGTERM until it listens; imports take a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from service.config import ServerConfig
    from service.observability.logs import set_up

    set_up(style=log_format, level=log_level)
    ports = {"http_port": http_port or None, "metrics_port": metrics_port or None}
    config = ServerConfig(**{**settings, **ports})
    if config.workers > 1:
        from service.server.replicas import supervise

        raise typer.Exit(supervise(config))
    from service.server.process import run

    raise typer.Exit(run(config))


def token(
    name: Annotated[str, typer.Argument(help="Who will call with it.")],
    images_per_s: Annotated[float, typer.Option(min=0, help="Its quota; 0: none.")] = 0,
    admin: Annotated[bool, typer.Option("--admin", help="It may load and unload models.")] = False,
) -> None:
    """Make a token for a caller: its entry for the server's file on stdout, itself on stderr.

    The file holds a hash alone: the token is shown this once.

    Example: hansang token kiosk --images-per-s 50 >> tokens.toml
    """
    from service.api.auth import entry, new_token

    secret, digest = new_token()
    print(entry(name, digest, images_per_s=images_per_s, admin=admin), end="")
    say(f"token of {name}: {secret}")


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    repository: Repository = Path("models"),
    as_json: Json = False,
) -> None:
    """Make the version serve that served before. A running server follows by itself.

    Example: hansang rollback food42
    """
    from service.models.bucket import working_copy
    from service.models.repository import ModelRepository

    with working_copy(repository) as folder:
        store = ModelRepository(folder)
        version = store.rollback(model)
        versions = store.versions(model)
    if as_json:
        print_json({"model": model, "version": version, "versions": versions})
        return
    print(f"{model}: version {version} serves now")
