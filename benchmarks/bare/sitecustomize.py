"""Makes this environment look like a bare CUDA machine: what it has not cannot be imported.

    PYTHONPATH=benchmarks/bare:. python benchmarks/gpu_check.py --device cpu

`there.txt` beside it lists the distributions of such a machine, and `carried.txt` what is brought
along. Whatever else is installed here is hidden, and so are scripts that would need it.
"""

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any


def _names(file: str) -> set[str]:
    lines = (Path(__file__).parent / file).read_text("utf-8").splitlines()
    return {_plain(line.split("==")[0]) for line in lines if line and line[0] != "#"}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


class _Bare:
    """Finds nothing that a bare machine lacks, before anybody else finds it."""

    def __init__(self) -> None:
        known = _names("there.txt") | _names("carried.txt")
        self.hidden = {
            module
            for module, owners in packages_distributions().items()
            if not {_plain(owner) for owner in owners} & known
        } - {"service", "training", "flows", "hansang", "terminal"}

    def find_spec(self, name: str, *_: Any) -> None:
        """Raise for what is not there; return None, 'ask the next one', for all else."""
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"no module named {name!r} on a bare machine", name=name)


sys.meta_path.insert(0, _Bare())  # type: ignore[arg-type]
