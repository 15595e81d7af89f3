"""The verbs of the service: serve, token, rollback. `classify` has a module of its own."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.serve_options import with_server_options
from service.config import ServerConfig
from service.devices import problem_of
from terminal import print_json, say

Repository = Annotated[Path, typer.Option(help="The model repository, also s3://…")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@with_server_options
def serve(**settings: Any) -> None:
    """Serve the models of a repository over gRPC and HTTP, and follow what is released into it.

    Ends with 0 after SIGTERM, when the calls in flight are answered, and with 70 when no model
    works any more.

    Example: hansang serve --repository models --port 8500
    """
    # The first process of a container ignores SIGTERM by default, and the imports take a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from service.observability.logs import set_up

    # On the command line port 0 means none, where None cannot be said.
    for name in ("http_port", "metrics_port"):
        settings[name] = settings[name] or None
    if problem := problem_of(settings["device"]):
        raise typer.BadParameter(problem, param_hint="--device")
    config = ServerConfig(**settings)
    set_up(style=config.log_format, level=config.log_level)
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
    from service.models.repository import ModelRepository
    from service.models.working_copy import working_copy

    with working_copy(repository) as folder:
        store = ModelRepository(folder)
        version = store.rollback(model)
        versions = store.versions(model)
    if as_json:
        print_json({"model": model, "version": version, "versions": versions})
        return
    print(f"{model}: version {version} serves now")
