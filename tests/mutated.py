"""Faults that are put into a module by hand, to see that a proof finds them."""

import importlib
import importlib.util
import sys
from types import ModuleType

Mutation = tuple[str, str, str]
"""A module, a text that occurs in it once, and what takes its place."""


def apply(mutation: Mutation) -> None:
    """Put a fault into a module of this process, before anything imports it.

    Raises:
        ValueError: The text is not there once: the module has changed, so must the mutation.
    """
    where, old, new = mutation
    assert where not in sys.modules, f"{where} is imported already"
    spec = importlib.util.find_spec(where)
    assert spec is not None
    assert spec.origin is not None
    source = spec.loader.get_source(where)  # type: ignore[union-attr]
    if source.count(old) != 1:
        raise ValueError(f"{where} has {source.count(old)} times {old!r}")
    module = sys.modules[where] = ModuleType(where)
    module.__spec__, module.__file__ = spec, spec.origin
    exec(compile(source.replace(old, new), spec.origin, "exec"), module.__dict__)  # noqa: S102
    parent, _, child = where.rpartition(".")
    setattr(importlib.import_module(parent), child, module)
