"""Third-party notices: each package of a bill of materials with its licence and the text of it.

    python deploy/notices.py build/sbom/serve-cpu.json > NOTICES.md

Licences are read from the packages as they are installed here, so it runs where they are: in the
environment that is passed on. A package that is not installed, or says nothing, is told as such.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

_TEXTS = ("licen", "copying", "notice")
_LONGEST_NAME = 80
"""Some packages put the whole text where the licence's name belongs."""


def main(bom: str) -> None:
    """Print the notices of a CycloneDX file."""
    components = json.loads(Path(bom).read_text("utf-8"))["components"]
    found = sorted((each["name"], each.get("version", "")) for each in components)
    print("# Third-party notices\n\n| package | version | licence |\n| --- | --- | --- |")
    for name, version in found:
        print(f"| {name} | {version} | {licence(name, version)} |")
    for name, version in found:
        for title, text in texts(name, version):
            print(f"\n## {name} {version}: {title}\n\n```text\n{text.strip()}\n```")


def licence(name: str, version: str) -> str:
    """Return the name of a package's licence, as the package says it."""
    known = _installed(name, version)
    if known is None:
        return "not installed here"
    told = known.metadata.get("License-Expression") or known.metadata.get("License") or ""
    if told and "\n" not in told and len(told) <= _LONGEST_NAME:
        return str(told)
    kinds = [
        kind.rpartition(" :: ")[2]
        for kind in known.metadata.get_all("Classifier") or ()
        if kind.startswith("License ::")
    ]
    return ", ".join(kinds) or "see its text"


def texts(name: str, version: str) -> list[tuple[str, str]]:
    """Return the licence files of a package: name and text."""
    known = _installed(name, version)
    if known is None:
        return []
    return [
        (file.name, Path(str(known.locate_file(file))).read_text("utf-8", errors="replace"))
        for file in known.files or ()
        if file.name.lower().startswith(_TEXTS)
        and file.suffix not in (".py", ".pyc")
        and ".dist-info" in str(file)
    ]


def _installed(name: str, version: str) -> importlib.metadata.Distribution | None:
    try:
        known = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return known if known.version == version else None


if __name__ == "__main__":
    main(sys.argv[1])
