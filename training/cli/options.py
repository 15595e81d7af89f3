"""The options that many verbs share, said in one place."""

from pathlib import Path
from typing import Annotated

import typer

from storage import bucket_url


def _folder(path: Path) -> Path:
    if bucket_url(path) is not None:
        raise typer.BadParameter(
            "the runs of a study lie in a folder; hansang train and hansang pipeline take s3://"
        )
    return path


Device = Annotated[str, typer.Option(help="auto, cuda or cpu.")]
PlacementName = Annotated[
    str, typer.Option(help="auto, resident, pinned or memory-mapped: where photos lie.")
]
Threads = Annotated[int | None, typer.Option(min=0, help="CPU threads.", show_default="all cores")]
RunsDir = Annotated[Path, typer.Option(help="Where runs lie, also s3://…")]
StudiesDir = Annotated[
    Path, typer.Option("--runs-dir", help="Where runs and studies lie.", callback=_folder)
]
CacheDir = Annotated[Path, typer.Option(help="Where dataset caches lie, also s3://…")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files into RUN/tensorboard.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
StopWithParent = Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")]
