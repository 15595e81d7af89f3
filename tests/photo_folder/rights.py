"""Python without root's right to read everything."""

import shutil
import subprocess
import sys

import pytest

from tests.paths import ROOT


def without_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user whom rights hold, also where the tests are root's."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    return subprocess.run(
        ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search",
         sys.executable, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
