"""The verb `export`: a run or a released version, as a folder that other programs take."""

from pathlib import Path
from typing import Annotated

import typer

from storage import bucket_url
from terminal import print_json
from training.cli.options import Json


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run directory, e.g. runs/first, or s3://…; or a released MODEL[:VERSION]."
        ),
    ],
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    as_json: Json = False,
) -> None:
    """Write a run's weights for other programs, or a released version for a registry.

    A run becomes a folder in the layout of the model hub: weights, config, model card. timm and
    torchvision load it; `--from DIR/model.safetensors` fine-tunes from it.

    A released version becomes an OCI image layout: `oras cp --from-oci-layout DIR:VERSION …` sends
    it to a registry.

    Example: hansang export runs/first --to first-model
    """
    if Path(source).exists() or bucket_url(source):
        _export_run(Path(source), to, as_json)
    else:
        _export_version(source, to, repository, as_json)


def _export_run(run: Path, to: Path, as_json: bool) -> None:
    """Write the best epoch in the layout of the model hub."""
    from training.buckets import mirror
    from training.export.hub import WEIGHTS
    from training.export.hub import export as write
    from training.reports.card import as_json as for_programs
    from training.reports.card import as_markdown, card

    run = mirror.pull(run)
    told = card(run)
    out = write(run, to, card={"README.md": as_markdown(told), "card.json": for_programs(told)})
    if as_json:
        print_json({"folder": str(out), "weights": str(out / WEIGHTS), "card": told})
        return
    print(f"{out}: {WEIGHTS}, config.json, README.md, card.json")


def _export_version(name: str, to: Path, repository: Path, as_json: bool) -> None:
    """Write the files of a version, checked, as an OCI image layout.

    Raises:
        ServiceError: There is no such model or version, or its files are damaged.
    """
    from flows.tasks.start import released_version
    from service.models.repository import ModelRepository
    from storage.oci import write_layout

    model, version = released_version(name, repository)
    store = ModelRepository(repository)
    store.verify(model, version)
    files = sorted(path for path in store.path(model, version).parent.iterdir() if path.is_file())
    about = {
        "org.opencontainers.image.title": model,
        "org.opencontainers.image.version": f"{version}",
    }
    digest = write_layout(files, to, tag=f"{version}", annotations=about)
    if as_json:
        print_json({"folder": str(to), "tag": f"{version}", "digest": digest})
        return
    print(f"{to}: {model}, version {version}, {digest}")
