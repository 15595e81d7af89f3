"""Faults that are put into a module by hand, to see that a proof finds them."""

import importlib
import importlib.util
import sys
from types import ModuleType

from tests.paths import ROOT

Mutation = tuple[str, str, str]
"""A module, a text that occurs in it once, and what takes its place."""


def apply(mutation: Mutation) -> None:
    """Put a fault into a module of this process, before anything imports it.

    Raises:
        ValueError: The text is not there once: the module has changed, so must the mutation.
    """
    where, _, _ = mutation
    assert where not in sys.modules, f"{where} is imported already"
    spec = importlib.util.find_spec(where)
    assert spec is not None
    assert spec.origin is not None
    source = mutated(mutation)
    module = sys.modules[where] = ModuleType(where)
    module.__spec__, module.__file__ = spec, spec.origin
    exec(compile(source, spec.origin, "exec"), module.__dict__)  # noqa: S102
    parent, _, child = where.rpartition(".")
    setattr(importlib.import_module(parent), child, module)


def mutated(mutation: Mutation) -> str:
    """Return the source of a module with a fault in it.

    Raises:
        ValueError: The text is not there once: the module has changed, so must the mutation.
    """
    where, old, new = mutation
    source = ROOT.joinpath(*where.split(".")).with_suffix(".py").read_text("utf-8")
    if source.count(old) != 1:
        raise ValueError(f"{where} has {source.count(old)} times {old!r}")
    return source.replace(old, new)
