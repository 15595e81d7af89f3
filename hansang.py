"""The command line: every verb and the module that does it, imported only when it is called.

Exit codes: 0 done, 1 it failed (the reason is on stderr), 2 wrong use, 130 interrupted.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from typing import Annotated, Any

# onnxruntime phones home from its first import on, unless it is told not to before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import typer
from typer.core import TyperGroup
from typer.main import get_command

from service import __version__
from terminal import UserError, run

VERBS = {
    "demo": "flows.cli.pipeline:demo",
    "sample": "training.cli.data:sample",
    "inspect": "training.cli.data:inspect",
    "review": "training.cli.review:review",
    "prepare": "training.cli.data:prepare",
    "train": "training.cli.train:train",
    "tune": "training.cli.tune:tune",
    "study": "training.cli.study:study",
    "finetune": "flows.cli.finetune:finetune",
    "report": "training.cli.reports:report",
    "compare": "training.cli.reports:compare",
    "evaluate": "flows.cli.evaluate:evaluate",
    "export": "flows.cli.export:export",
    "release": "flows.cli.pipeline:release",
    "rollback": "service.cli.serve:rollback",
    "serve": "service.cli.serve:serve",
    "token": "service.cli.serve:token",
    "classify": "service.cli.classify:classify",
    "pipeline": "flows.cli.pipeline:pipeline",
    "deploy": "flows.cli.operations:deploy",
    "up": "flows.cli.operations:up",
    "drift": "flows.cli.operations:drift",
    "relabel": "flows.cli.operations:relabel",
    "models": "flows.cli.upkeep:models",
    "prune": "flows.cli.upkeep:prune",
}
"""Verb → `module:function`. These modules import nothing heavy; their functions do."""


EXTRAS = {"service": "serve", "training": "train", "flows": "train"}
"""Room of a verb → the extra of the package with what that room imports."""


class _Verbs(TyperGroup):
    """Imports the one module of the verb that was asked for."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            verb = ctx.invoked_subcommand
            if verb is None:  # a room of ours is broken, which no extra mends
                raise
            extra = EXTRAS[VERBS[verb].split(".")[0]]
            raise UserError(
                f"{verb} needs {error.name}, which is not installed:"
                f" pip install 'hansang[{extra}]=={__version__}'"
            ) from error

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb for verb in VERBS if _is_here(verb)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            if alike := difflib.get_close_matches(cmd_name, VERBS):
                ctx.fail(f"no verb {cmd_name!r}; did you mean {' or '.join(alike)}?")
            return None
        if not _is_here(cmd_name):
            raise UserError(
                f"{cmd_name} is not in this image, which only serves; use the image hansang:train"
            )
        module, function = VERBS[cmd_name].split(":")
        verb = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        verb.command(cmd_name)(getattr(importlib.import_module(module), function))
        return get_command(verb)


def _is_here(verb: str) -> bool:
    """Return whether the verb's room is installed; an image that serves has no `training`."""
    return importlib.util.find_spec(VERBS[verb].split(".")[0]) is not None


app = typer.Typer(
    cls=_Verbs,
    name="hansang",
    help="Hansang (한상): from folders of food photos to a served classifier.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hansang {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Hansang (한상): from folders of food photos to a served classifier."""


def main() -> None:
    """Run the command line."""
    # Boxes of 80 columns fold paths; where nobody looks, a mistake is one line.
    if sys.stderr is None or not sys.stderr.isatty():
        app.rich_markup_mode = None
    run(app)


if __name__ == "__main__":
    main()
