"""The verbs of production: deploy, up, drift, relabel."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terminal import UserError, print_json, print_table, say
from training.cli.options import Json

Model = Annotated[str, typer.Option(help="Name of the model in the repository.")]
Repository = Annotated[Path, typer.Option(help="The model repository.")]
Home = Annotated[
    Path, typer.Option(help="The folder that flows run in: it holds flows/ and prefect.yaml.")
]
DataName = Annotated[str, typer.Option("--data", help="The folder of photos, from --home.")]
Gpus = Annotated[
    int | None,
    typer.Option(min=0, help="GPUs that train, a worker each.", show_default="this machine's"),
]
GpusOfDeploy = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="GPUs that train, a worker each; on Kubernetes those of each Job.",
        show_default="this machine's; 1 on Kubernetes",
    ),
]

Timezone = Annotated[str, typer.Option(help="Whose nights the schedules mean, such as Asia/Seoul.")]


def deploy(
    home: Home = Path(),
    data: DataName = "photos",
    model: Model = "food42",
    gpus: GpusOfDeploy = None,
    timezone: Timezone = "Etc/UTC",
    as_json: Json = False,
) -> None:
    """Put the flows on the Prefect server of PREFECT_API_URL: pools, deployments, automations.

    It says first which server that is, and whether Prefect's profile names another one. Doing it
    again changes nothing, and says so. What it makes: a pool for light work; a pool that trains,
    with a place for each GPU (or one for the CPU); the deployments of prefect.yaml; an automation
    that finds runs whose heartbeat has stopped, and one that begins crashed runs again, 3 times at
    most.
    Where the pool `hansang` is there already and of another type, such as kubernetes, it is left
    as it is, and all flows run in it.

    Example: hansang deploy --data photos --model food42
    """
    from flows.prefect_setup import address
    from flows.prefect_setup.deploy import deploy as apply

    say(address.said())
    changes = apply(home=home, data=data, model=model, file=home / "prefect.yaml", gpus=gpus,
                    timezone=timezone)  # fmt: skip
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    print_table(
        "Deployed", ["kind", "name", "what changed"], [[c.kind, c.name, c.what] for c in changes]
    )
    pools = " and ".join(
        change.name
        for change in changes
        if change.kind == "pool" and not change.what.startswith("left")
    )
    if pools:
        say(f"start a worker for each of the pools {pools}: python -m flows.worker --pool NAME")


def up(
    home: Home = Path(),
    data: DataName = "photos",
    model: Model = "food42",
    repository: Annotated[
        Path, typer.Option(help="The model repository.", show_default="HOME/models")
    ] = Path("models"),
    gpus: Gpus = None,
    server_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of Prefect's server.")
    ] = 4200,
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port of the service.")] = 8500,
    http_port: Annotated[
        int, typer.Option(min=1, max=65535, help="HTTP port of the service.")
    ] = 8080,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics.")] = 8002,
    reports_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the runs' reports.")
    ] = 8003,
    logs: Annotated[Path, typer.Option(help="Where their logs go.")] = Path("logs"),
) -> None:
    """Start Prefect's server, its workers and the service on this machine, for a first look.

    Prints the addresses to open. Ctrl-C or SIGTERM stops them in order: trainings save a
    checkpoint, calls in flight are answered. With PREFECT_API_URL set, that server is used.

    Example: hansang up
    """
    from flows.local.up import LocalStack
    from flows.prefect_setup.pools import num_gpus

    LocalStack(
        home=home.resolve(), data=data, model=model, repository=repository,
        gpus=num_gpus() if gpus is None else gpus, server_port=server_port, port=port,
        http_port=http_port, metrics_port=metrics_port, reports_port=reports_port, logs=logs,
    ).run()  # fmt: skip


def drift(
    model: Model = "food42",
    metrics: Annotated[
        str, typer.Option(help="The service's /metrics.")
    ] = "http://localhost:8002/metrics",
    repository: Repository = Path("models"),
    hours: Annotated[float, typer.Option(min=0.01, help="How far to look back.")] = 24,
    max_psi: Annotated[float, typer.Option(min=0.001, help="Stability index allowed.")] = 0.2,
    min_images: Annotated[int, typer.Option(min=1, help="Fewer images say nothing.")] = 200,
    as_json: Json = False,
) -> None:
    """Compare what the service answered lately with what the model answered on held-out photos.

    Classes and confidences are compared, by the population stability index less what chance gives.
    Each call records the counters, and later calls count from there: call it every hour, or let
    the deployment do it. Drift ends with 1 and, with PREFECT_API_URL set, raises the event
    hansang.drift.

    Example: hansang drift --model food42
    """
    from flows.release_gate import traffic

    rules = traffic.DriftRules(hours=hours, max_psi=max_psi, min_images=min_images)
    found = traffic.check_drift(model, metrics, repository, rules)
    if as_json:
        print_json(found.to_dict())
    else:
        held, lately = found.mean_confidence
        print_table(
            f"{model}: {found.reason}",
            ["what", "held out", f"last {found.hours:.1f} h, {found.images} images"],
            [
                ["mean confidence", f"{held:.3f}", f"{lately:.3f}"],
                *([label, f"{a:.1%}", f"{b:.1%}"] for label, a, b in found.moved),
            ],
        )
    if found.drifted:
        if os.environ.get("PREFECT_API_URL"):
            from flows.drift import raise_event_from_anywhere
            from flows.prefect_setup import address

            say(address.said())
            raise_event_from_anywhere(model, found)
        raise UserError(f"{model}: {found.reason}; look at the photos, and relabel some")


def relabel(
    corrections: Annotated[
        Path | None, typer.Argument(help="CSV with the columns photo and label.", metavar="[CSV]")
    ] = None,
    data: Annotated[Path, typer.Option(help="The folder of photos.")] = Path("photos"),
    undo: Annotated[
        bool, typer.Option("--undo", help="Take the last table back, without a CSV.")
    ] = False,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Allow labels that are no class yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be moved.")] = False,
    as_json: Json = False,
) -> None:
    """Take corrected answers into the data set: photos move to the class that they really are.

    A photo of the data set stays in its split; another is copied into train. One that is labelled
    (drop) moves to DATA/.dropped, which training does not look into. All rows are checked first:
    one that is wrong holds all of them. Each move is a line in DATA/.relabels.jsonl, with who moved
    it and when; given again after a kill, the rest is done. --undo takes back one table, then the
    one before it.

    Example: hansang relabel corrected.csv --data photos
    """
    from flows.local import relabel as relabelling
    from flows.local import relabel_history

    if not data.is_dir():
        raise UserError(f"{data} is not a folder; give the folder of photos with --data")
    if undo == (corrections is not None):
        raise UserError("give either a CSV of corrections, or --undo")
    command = ""
    if corrections is None:
        moves, command = relabel_history.way_back(data)
        count = len(moves)
    else:
        rows = relabelling.read(corrections)
        moves, count = relabelling.plan(rows, data, new_classes=new_classes), len(rows)
    if not dry_run:
        relabel_history.apply(moves, data, undoes=command)
    table = [[move.before, move.label, str(move.target)] for move in moves]
    if as_json:
        print_json([dict(zip(("before", "label", "photo"), row, strict=True)) for row in table])
        return
    verb = "would be moved" if dry_run else "moved"
    print_table(f"{len(moves)} of {count} {verb}", ["was", "is", "photo"], table)
