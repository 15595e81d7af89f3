"""Fills the tables of docs/reference/ and docs/architecture.md from the code.

A page is written by hand; what stands between these two lines is made here:

    <!-- generated: NAME -->
    <!-- end -->

`make docs-reference` writes the pages, and `--check` exits with 1 where one of them has drifted.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

sys.path[:0] = map(str, Path(__file__).parents[:2])

from as_markdown import ROOT, fields_of, layers, python_api, rooms, table

_BLOCK = re.compile(r"(?<=<!-- generated: )(\w+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)

# -- the command line ----------------------------------------------------------------------------


def command(verb: str) -> Any:
    """Return a verb of the command line as Click knows it."""
    import typer
    from typer.main import get_command

    from hansang import VERBS

    module, function = VERBS[verb].split(":")
    app = typer.Typer(add_completion=False)
    app.command(verb)(getattr(importlib.import_module(module), function))
    return get_command(app)


def default_of(option: Any) -> str:
    """Return an option's default as a person would type it; empty where there is none."""
    if isinstance(option.show_default, str):
        return str(option.show_default)
    if option.required:
        return "required"
    if isinstance(option.default, bool):
        flags = (option.opts, option.secondary_opts or ["off"])
        return str(flags[not option.default][0]).removeprefix("--")
    return shown(option.default)


def cli() -> Iterator[str]:
    """Give every verb: what it does, and its options."""
    from hansang import VERBS

    for verb in VERBS:
        made = command(verb)
        paragraphs = inspect.cleandoc(made.help).split("\n\n")
        text = [each for each in paragraphs if not each.startswith("Example: ")]
        examples = [
            " ".join(each.removeprefix("Example: ").split()) for each in paragraphs
            if each.startswith("Example: ")
        ]  # fmt: skip
        yield f"## hansang {verb}\n\n" + "\n\n".join(text) + "\n\n"
        yield "```sh\n" + "\n".join(examples) + "\n```\n\n" if examples else ""
        rows = []
        for option in made.params:
            if option.name == "help":
                continue
            flag = option.param_type_name == "option"
            name = ", ".join(option.opts) if flag else option.name.upper()
            rows.append((f"`{name}`", default_of(option), option.help or ""))
        yield table(("argument or option", "default", "what it does"), rows) + "\n"


def server_settings() -> Iterator[str]:
    """Give every flag of `hansang serve`, as the server's configuration describes it."""
    from service.config import ServerConfig

    described = fields_of(ServerConfig)
    yield table(
        ("flag", "default", "what it does"),
        [
            (f"`{option.opts[0]}`", default_of(option), described[option.name][1])
            for option in command("serve").params
            if option.name in described
        ],
    )


# -- training ------------------------------------------------------------------------------------


def bounds(field: Any) -> str:
    """Return which values a setting takes."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = {
        name: getattr(bound, name)
        for bound in field.metadata for name in signs if hasattr(bound, name)
    }  # fmt: skip
    if {"ge", "le"} == set(found):
        return f"{found['ge']} to {found['le']}"
    return ", ".join(f"{signs[name]} {value}" for name, value in found.items())


def settings() -> Iterator[str]:
    """Give every setting of a training run, by the name that `--set` takes."""
    from training.config import TrainConfig

    config = TrainConfig()
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    nested = {
        name: type(value) for name, value in values.items() if dataclasses.is_dataclass(value)
    }
    groups: dict[str, Any] = {"": TrainConfig, **nested}
    for group, cls in groups.items():
        described = fields_of(cls)
        about = inspect.cleandoc(cls.__doc__).splitlines()[0]
        yield f"## {f'`{group}.*`: ' if group else ''}{about}\n\n"
        rows = [
            (
                f"`{group}.{name}`" if group else f"`{name}`",
                shown(field.default),
                bounds(field),
                described[name][1],
            )
            for name, field in cls.__pydantic_fields__.items()
            if name not in nested
        ]
        yield table(("setting", "default", "values", "what it does"), rows) + "\n"


def shown(value: Any) -> str:
    """Return a setting's value as `--set` takes it, as code; nothing where there is none."""
    if isinstance(value, bool):
        value = str(value).lower()
    return (
        ""
        if value in (None, "", ())
        else f"`{value:.4g}`"
        if isinstance(value, float)
        else f"`{value}`"
    )


def recipes() -> Iterator[str]:
    """Give every recipe: its command, what it measured, and how it differs from the defaults."""
    from training.config import TrainConfig
    from training.recipes import RECIPES
    from training.setting_names import flatten

    plain = flatten(TrainConfig().to_dict())
    for name, make in RECIPES.items():
        about, *detail = inspect.cleandoc(make.__doc__ or "").split("\n\n")
        yield f"### {name}\n\n{about}\n\n"
        yield "".join(f"```sh\n{each}\n```\n\n" for each in detail)
        yield "Settings that differ from the defaults: "
        differing = {
            key: value for key, value in flatten(make().to_dict()).items()
            if value != plain[key] and key != "recipe"
        }  # fmt: skip
        listed = ", ".join(f"`{key}` {shown(value)}" for key, value in differing.items())
        yield f"{listed or 'none'}.\n\n"


def rules() -> Iterator[str]:
    """Give every rule of the release gate, by the name that `--rule` takes."""
    from flows.release_gate.gate import Rules

    yield table(
        ("rule", "default", "values", "what it does"),
        [
            (f"`{name}`", shown(field.default), bounds(field), field.description or "")
            for name, field in Rules.model_fields.items()
        ],
    )


# -- metrics ------------------------------------------------------------------


def metrics() -> Iterator[str]:
    """Give every metric that a server exports."""
    from service.observability import gpus
    from service.observability.metrics import Metrics

    made = Metrics()
    labels = {
        metric._name: ", ".join(metric._labelnames)
        for metric in vars(made).values() if hasattr(metric, "_labelnames")
    }  # fmt: skip
    rows = [
        (f"`{family.name}`", family.type, labels.get(family.name, ""), family.documentation)
        for family in made.registry.collect()
        if family.name.startswith("hansang_")
    ]
    rows += [
        (f"`{family.name}`", family.type, ", ".join(gpus.LABELS), family.documentation)
        for family in gpus.families().values()
    ]
    yield table(("metric", "kind", "labels", "what it says"), rows)


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "cli": cli,
    "server_settings": server_settings,
    "settings": settings,
    "recipes": recipes,
    "rules": rules,
    "metrics": metrics,
    "python_api": python_api,
    "rooms": rooms,
    "layers": layers,
}


def filled(page: str) -> str:
    """Return a page with every generated block made anew."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}\n" + "".join(BLOCKS[found[1]]()).strip("\n") + "\n\n"

    return _BLOCK.sub(block, page)


def main() -> int:
    """Write the pages, or with `--check` name those that have drifted."""
    drifted = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.read_text("utf-8")
        if (made := filled(page)) != page:
            drifted.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(made, "utf-8")
    if "--check" in sys.argv and drifted:
        print(f"{', '.join(map(str, drifted))}: not as the code has it; run make docs-reference")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
