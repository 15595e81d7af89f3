"""The arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from photo_folder.names import has_control, is_unicode
from storage import bucket_url


def _folder(path: Path) -> Path:
    if bucket_url(path) is not None:
        raise typer.BadParameter(
            "the runs of a study lie in a folder; hansang train and hansang pipeline take s3://"
        )
    return path


def named(name: str | None) -> str | None:
    """Return a name that becomes a folder in RUNS, if it can be one.

    Raises:
        typer.BadParameter: It is blank, leads elsewhere, or cannot be written in one line.
    """
    if name and (not name.strip() or {".", ".."} & set(name.split("/"))):
        raise typer.BadParameter(f"{name!r} is no name of a folder in RUNS; give one such as first")
    if name and (has_control(name) or not is_unicode(name)):
        raise typer.BadParameter(f"{name!r} has a character that cannot be shown; give another")
    return name


Data = Annotated[
    Path,
    typer.Argument(help="train/ val/ (test/) of class folders, class folders alone, or s3://…"),
]
Group = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="What belongs together, so that no split parts it: folder, or a regular expression on"
        " paths (docs/guides/groups.md).",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cuda or cpu.")]
PlacementName = Annotated[
    str, typer.Option(help="auto, resident, pinned or memory-mapped: where photos lie.")
]
Threads = Annotated[int | None, typer.Option(min=0, help="CPU threads.", show_default="all cores")]
StudySide = Annotated[int, typer.Option(min=32, max=512, help="Side of the square, in pixels.")]
RunId = Annotated[
    str | None,
    typer.Option(
        "--run", callback=named, help="Run ID; a run that exists goes on.", show_default="new"
    ),
]
RunsDir = Annotated[Path, typer.Option(help="Where runs lie, also s3://…")]
StudiesDir = Annotated[
    Path, typer.Option("--runs-dir", help="Where runs and studies lie.", callback=_folder)
]
CacheDir = Annotated[Path, typer.Option(help="Where dataset caches lie, also s3://…")]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on with a run on another device, torch or number of threads, and note it.",
    ),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files into RUN/tensorboard.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
StopWithParent = Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")]
