"""Addresses under which a browser finds what a flow wrote.

A page of Prefect may not open `file://` addresses, so a web server (`hansang up` starts one) or a
bucket serves the runs.
"""

import os
from pathlib import Path
from urllib.parse import quote

from storage import bucket_url

SETTING = "HANSANG_REPORTS_URL"
"""Environment variable: the address of a web server that serves the home's folder `runs`."""

RUNS = Path("runs")


def link(path: Path) -> str:
    """Return the address of a page or a folder; `file://…` where no web server serves it."""
    if url := bucket_url(path):
        return url
    base, whole = os.environ.get(SETTING), path.resolve()
    if base and whole.is_relative_to(RUNS.resolve()):
        return f"{base.rstrip('/')}/{quote(whole.relative_to(RUNS.resolve()).as_posix())}"
    return whole.as_uri()
