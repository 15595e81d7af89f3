"""Where a browser finds what a flow wrote: Prefect's pages may not open files of a machine."""

import os
from pathlib import Path
from urllib.parse import quote

from storage import bucket_url

SETTING = "HANSANG_REPORTS_URL"
"""The address of a web server that serves the folder `runs` of the home; none if it is not set."""

RUNS = Path("runs")


def link(path: Path) -> str:
    """Return the address of a page, or of a folder; a `file://` one where nothing serves it."""
    if url := bucket_url(path):
        return url
    base, whole = os.environ.get(SETTING), path.resolve()
    if base and whole.is_relative_to(RUNS.resolve()):
        return f"{base.rstrip('/')}/{quote(whole.relative_to(RUNS.resolve()).as_posix())}"
    return whole.as_uri()
