"""The verb `export`: a run as a folder that other programs load."""

from pathlib import Path
from typing import Annotated

import typer

from terminal import print_json
from training.cli.options import Json


def export(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/first, or s3://…")],
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    as_json: Json = False,
) -> None:
    """Write the best epoch in the layout of the model hub: weights, config, model card.

    timm and torchvision load it; `--from DIR/model.safetensors` fine-tunes from it. To serve a run,
    release it: hansang release.

    Example: hansang export runs/first --to first-model
    """
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
