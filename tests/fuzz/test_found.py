"""What fuzzing found stays mended, and its seeds are good; without atheris."""

from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.fuzz.seeds import seeds

FOUND = sorted(Path(__file__).parent.glob("found/*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_stays_mended(path):
    """Each input broke a promise once."""
    targets.check(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_each_target_holds_for_its_seeds(name):
    """And for nothing at all, and for seeds that are cut."""
    targets.check(name, b"")
    for seed in seeds(name):
        targets.check(name, seed)
        targets.check(name, seed[: len(seed) // 2])
