"""The options of `hansang classify`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Photos = Annotated[
    list[Path],
    typer.Argument(
        help="Photos, folders or tables of photos; with --engine also s3://bucket/prefix."
    ),
]
Address = Annotated[str, typer.Option(help="The service.")]
TopK = Annotated[int, typer.Option(min=1, help="Classes per photo.")]
Model = Annotated[str, typer.Option(help="Which model.", show_default="the only one")]
Version = Annotated[int, typer.Option(min=0, help="Which version; 0: the one that serves.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write results to this .csv or .jsonl; what is in it is not asked again."
        " With --engine: a folder or s3://bucket/prefix for many .jsonl files."
    ),
]
Token = Annotated[
    str,
    typer.Option(envvar="HANSANG_TOKEN", help="Bearer token.", show_default=False),
]
Ca = Annotated[Path | None, typer.Option(help="TLS: authority of the service's certificate, PEM.")]
Certificate = Annotated[Path | None, typer.Option(help="mTLS: own certificate, PEM.")]
Key = Annotated[Path | None, typer.Option(help="mTLS: its private key, PEM.")]
Engine = Annotated[
    Literal["dask", "ray"] | None,
    typer.Option(help="Classify offline, on workers of an engine, without a service."),
]
Cluster = Annotated[
    str,
    typer.Option(
        help="Where the engine is: tcp://host:8786 for Dask, host:6379 for Ray.",
        show_default="workers on this machine",
    ),
]
Workers = Annotated[
    int, typer.Option(min=0, help="Workers on this machine.", show_default="one per core")
]
Repository = Annotated[Path, typer.Option(help="With --engine: the model repository, also s3://…")]
Device = Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="Where workers compute.")]
PartSize = Annotated[int, typer.Option(min=1, help="Photos of a task, and of a file of results.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
