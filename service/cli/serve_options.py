"""The options of `hansang serve`, made from the fields of `ServerConfig`."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from typing import Annotated, Any, Literal, TypeVar

import typer

from service.config import ServerConfig, Setting

Verb = TypeVar("Verb", bound=Callable[..., None])


def with_server_options(verb: Verb) -> Verb:
    """Give a verb that takes `**settings` an option for each setting of a server."""
    verb.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
    return verb


def _parameters() -> Iterator[inspect.Parameter]:
    for field in fields(ServerConfig):
        setting = Setting.of(field)
        if setting.flag is not None:
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[_type(field, setting), _option(field, setting)],
            )


def _type(field: Field[Any], setting: Setting) -> Any:
    if setting.choices:
        return Literal[setting.choices]
    # A port that may be None is a number here, and 0 says None.
    return field.type if field.default is None else type(field.default)


def _option(field: Field[Any], setting: Setting) -> Any:
    flag = setting.flag or f"--{field.name.replace('_', '-')}"
    return typer.Option(
        flag,  # of a switch, it leaves out --no-…
        help=setting.help,
        min=setting.low,
        # Bounds that nobody reaches only crowd the help; ServerConfig checks them all.
        max=setting.high if setting.high and setting.high <= 2**20 else None,
        show_default=setting.default_text or True,
    )
