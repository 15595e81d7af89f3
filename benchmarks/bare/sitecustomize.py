"""Makes this environment look like a bare CUDA machine: what it has not cannot be imported.

    PYTHONPATH=benchmarks/bare:. python benchmarks/gpu.py --device cpu

`there.txt` beside it lists the distributions of such a machine, and requirements/gpu.in what is
brought along. Whatever else is installed here is hidden, and so are scripts that would need it.
"""

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def _names(file: Path) -> set[str]:
    lines = file.read_text("utf-8").splitlines()
    return {_plain(line.split("==")[0]) for line in lines if line and line[0] != "#"}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


class _Bare:
    """Finds nothing that a bare machine lacks, before anybody else finds it."""

    def __init__(self) -> None:
        carried = _names(_HERE.parents[1] / "requirements" / "gpu.in")
        known = _names(_HERE / "there.txt") | carried
        self.hidden = {
            module
            for module, owners in packages_distributions().items()
            if not {_plain(owner) for owner in owners} & known
        } - {path.stem for path in _HERE.parents[1].iterdir()}

    def find_spec(self, name: str, *_: Any) -> None:
        """Raise for what is not there; return None, 'ask the next one', for all else."""
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"no module named {name!r} on a bare machine", name=name)


sys.meta_path.insert(0, _Bare())  # type: ignore[arg-type]
