"""Code as Markdown: tables, the fields of a class, and the Python API with its docstrings."""

import ast
import dataclasses
import importlib
import inspect
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

API = {
    "Train": (
        "training:prepare",
        "training:recipe",
        "training:TrainConfig.with_overrides",
        "training:train",
        "training.runs.result:TrainResult",
        "training:write_report",
        "training:export_onnx",
    ),
    "Classify here": (
        "service.pixels.preprocessing:preprocess",
        "service.models.model:Model",
        "service.models.model:Model.predict",
    ),
    "Release": (
        "flows.release_gate.evaluation:evaluate",
        "flows.release_gate.publish:decide",
        "service.models.repository:ModelRepository.publish",
        "service.models.repository:ModelRepository.rollback",
    ),
    "Ask a server": (
        "service.client:Classifier",
        "service.client:Classifier.classify",
        "service.client:Classifier.bulk",
        "service.client:Classifier.model",
        "service.client:AsyncClassifier",
        "service.client:AsyncClassifier.classify",
        "service.client:AsyncClassifier.bulk",
        "service.client:Result",
        "service.client:ModelInfo",
    ),
}
"""What the page of the Python API shows, as `module:name`."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    cells = (
        " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in line) for line in lines
    )
    return "".join(f"| {line} |\n" for line in cells)


def fields_of(cls: Any) -> dict[str, tuple[str, str]]:
    """Return each annotated field of a class: its type, and the text below it as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in pairwise([*body, ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ast.literal_eval(below.value) if isinstance(below, ast.Expr) else ""
            found[field.target.id] = (ast.unparse(field.annotation), " ".join(text.split()))
    return found


def rooms() -> Iterator[str]:
    """Give every folder of the three packages: what it is, and its modules."""
    for package in ("photo_folder", "training", "service", "flows"):
        rows = []
        for init in sorted(ROOT.glob(f"{package}/**/__init__.py")):
            about = ast.get_docstring(ast.parse(init.read_text("utf-8"))) or ""
            modules = sorted(path.stem for path in init.parent.glob("[!_]*.py"))
            name = init.parent.relative_to(ROOT)
            rows.append(
                (f"`{name}/`", " ".join(about.split("\n\n")[0].split()), ", ".join(modules))
            )
        yield table(("folder", "what it is", "modules"), rows) + "\n"


def layers() -> Iterator[str]:
    """Give the order of the rooms that import-linter holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    rows = [
        (f"`{contract['containers'][0]}`", " → ".join(map(code, contract["layers"])))
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    yield table(("package", "its rooms, from top to bottom"), rows)


def code(names: str) -> str:
    """Return names that `|` parts as code."""
    return ", ".join(f"`{name.strip()}`" for name in names.split("|"))


def python_api() -> Iterator[str]:
    """Give each function and class of the Python API: its signature and its docstring."""
    for heading, names in API.items():
        yield f"## {heading}\n\n"
        for name in names:
            module, _, path = name.partition(":")
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part, None)
            if found is None:
                raise SystemExit(f"docs/as_markdown.py: API names {name}, which does not exist")
            yield f"### {module}.{path}\n\n```python\n{signature(found)}\n```\n\n"
            made = found.__init__ if inspect.isclass(found) else None
            for text in (inspect.getdoc(found), made and made.__doc__ and inspect.getdoc(made)):
                if text and not text.startswith("Initialize self"):
                    yield f"```text\n{text}\n```\n\n"
            if inspect.isclass(found) and dataclasses.is_dataclass(found):
                rows = [(f"`{n}`", f"`{t}`", text) for n, (t, text) in fields_of(found).items()]
                yield table(("field", "type", "what it is"), rows) + "\n"


def signature(found: Any) -> str:
    """Return a signature as the source has it, an argument a line where it is long."""
    name = found.__name__
    if dataclasses.is_dataclass(found):
        return f"class {name}"
    made = found.__init__ if inspect.isclass(found) else found
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(made))).body[0]
    arguments = list(arguments_of(node.args))
    returned = f" -> {ast.unparse(node.returns)}" if node.returns and found is made else ""
    start = "async def " if isinstance(node, ast.AsyncFunctionDef) else ""
    line = f"{start}{name}({', '.join(arguments)}){returned}"
    if len(line) <= 88:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{start}{name}(\n{lines}){returned}"


def arguments_of(found: ast.arguments) -> Iterator[str]:
    """Give each argument with its type and default, without `self`."""

    def one(argument: ast.arg, default: ast.expr | None) -> str:
        return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")

    plain = [*found.posonlyargs, *found.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(found.defaults))
    for argument, default in zip(plain, [*missing, *found.defaults], strict=True):
        if argument.arg not in ("self", "cls"):
            yield one(argument, default)
    if found.kwonlyargs:
        yield "*"
    for argument, default in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        yield one(argument, default)
