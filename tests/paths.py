"""Where the repository is, for tests in any folder: `from tests.paths import ROOT`."""

from pathlib import Path

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
