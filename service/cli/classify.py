"""The verb `classify`: ask a service what is on photos, a few or thousands."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer

from photo_folder.left_out import LeftOut
from photo_folder.names import printable
from photo_folder.reading import content, reason
from photo_folder.scan import photos_in
from service.cli.classify_options import (
    Address,
    Ca,
    Certificate,
    Cluster,
    Device,
    Engine,
    Json,
    Key,
    Model,
    Out,
    PartSize,
    Photos,
    Repository,
    Token,
    TopK,
    Version,
    Workers,
)
from service.client.results_file import ResultsFile, as_json
from terminal import UserError, print_json, print_table, progress, say

if TYPE_CHECKING:
    from service.client.client import Result

_EVERY_S = 5.0
_SERVED = ("address", "token", "ca", "certificate", "key")
_OFFLINE = ("cluster", "workers", "repository", "device", "part_size")
"""Options that mean nothing without, and with, --engine."""


def classify(
    context: typer.Context,
    photos: Photos,
    address: Address = "localhost:8500",
    top_k: TopK = 5,
    model: Model = "",
    version: Version = 0,
    out: Out = None,
    token: Token = "",
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    engine: Engine = None,
    cluster: Cluster = "",
    workers: Workers = 0,
    repository: Repository = Path("models"),
    device: Device = "auto",
    part_size: PartSize = 500,
    json_: Json = False,
) -> None:
    """Ask a service what is on photos; or classify millions without one, on Dask or Ray.

    With --out every answer is written as it comes: after an interruption the same command goes on
    where it was. A photo that cannot be read or classified spares the others; such photos are
    listed with their reasons, in OUT.failed, and the exit code is 1.

    With --engine dask or ray, workers (on this machine, or those of --cluster) load the model from
    the repository and classify a part of the photos at a time. OUT/answers has a line for each
    photo, whatever was killed in between, and OUT/failed lists those without an answer.

    Example: hansang classify photos/val --address localhost:8500 --out results.csv

    Example: hansang classify s3://photos/2026 --engine dask --repository s3://models --out
    s3://answers/2026
    """
    _require_options(context, engine)
    if engine:
        if out is None:
            raise typer.BadParameter("--engine needs --out, a folder or s3://bucket/prefix")
        _offline(
            [str(each) for each in photos], str(out), kind=engine, cluster=cluster, workers=workers,
            repository=repository, model=model, version=version, top_k=top_k, part_size=part_size,
            device=device, json_=json_,
        )  # fmt: skip
        return
    _online(
        _files(photos), address, out, model=model, version=version, top_k=top_k, json_=json_,
        token=token, ca=ca, certificate=certificate, key=key,
    )  # fmt: skip


def _require_options(context: typer.Context, engine: str | None) -> None:
    """Refuse options that mean nothing with, or without, an engine."""
    strange = _SERVED if engine else _OFFLINE
    for name in strange:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                f"{option} is for a service; with --engine there is none"
                if engine
                else f"{option} goes with --engine dask or --engine ray"
            )


def _online(
    files: list[Path],
    address: str,
    out: Path | None,
    *,
    model: str,
    version: int,
    top_k: int,
    json_: bool,
    **connection: Any,
) -> None:
    """Ask a service about photos; write the answers to `out`, or show them.

    Raises:
        UserError: Some photos could not be classified, or the service went away.
    """
    from service.client.client import Classifier
    from service.errors import ServiceError

    with contextlib.ExitStack() as opened:
        results = opened.enter_context(ResultsFile(out, top_k)) if out is not None else None
        left = [file for file in files if results is None or str(file) not in results]
        client = opened.enter_context(Classifier(address, **connection))
        report = opened.enter_context(progress("classify"))
        answers: list[tuple[Path, Result]] = []
        failed: list[tuple[Path, str]] = []
        done = len(files) - len(left)
        report(done, len(files))
        bulk = client.bulk(_read(left), top_k, model=model, version=version)
        try:
            for file, result in zip(left, bulk, strict=True):
                done += 1
                if result.error is not None:
                    failed.append((file, result.error))
                if results is None:
                    answers.append((file, result))
                elif result.error is None:
                    results.add(file, result)
                report(done, len(files), f"{len(failed)} failed" if failed else "")
        except ServiceError as error:
            if results is None:
                raise
            raise UserError(
                f"{error}; {done} of {len(files)} photos are done, and the same command goes on"
            ) from error
        finally:
            if results is not None:
                results.list_failed(failed)
    _sum_up(files, results, answers, failed, done, json_=json_)


def _sum_up(
    files: list[Path],
    results: ResultsFile | None,
    answers: "list[tuple[Path, Result]]",
    failed: list[tuple[Path, str]],
    done: int,
    *,
    json_: bool,
) -> None:
    """Show the answers, or how many are in the file of results, and why others are not.

    Raises:
        UserError: Some photos could not be classified.
    """
    if results is None:
        _show(answers, json_)
    else:
        summary = {
            "photos": len(files), "classified": done - len(failed), "failed": len(failed),
            "out": str(results.path),
        }  # fmt: skip
        if json_:
            print_json(summary)
        else:
            classified = summary["classified"]
            print(f"{classified} of {len(files)} photos are classified in {results.path}")
    if failed:
        if results is not None:
            for file, why in failed[:10]:
                say(f"{printable(str(file))}: {why}")
            say(f"all of them: {results.failed}")
        raise UserError(f"{len(failed)} of {len(files)} photos could not be classified")


def _offline(
    photos: list[str],
    out: str,
    *,
    cluster: str,
    workers: int,
    device: str,
    json_: bool,
    **asked: Any,
) -> None:
    import dataclasses

    from machine import num_cores
    from service.offline.engines import Place
    from service.offline.run import classify as classify_offline

    place = Place(cluster=cluster, workers=workers or num_cores(), gpu=device == "cuda")
    told_s = [monotonic()]

    def found(count: int) -> None:
        # How many there will be is not known, so that there is no bar.
        if monotonic() - told_s[0] > _EVERY_S:
            told_s[0] = monotonic()
            say(f"{count} photos found so far")

    with progress("classify") as report:
        summary = classify_offline(
            photos, out, place=place, device=device, found=found, tell=say, progress=report,
            **asked,
        )  # fmt: skip
    if json_:
        print_json(dataclasses.asdict(summary))
    else:
        print(
            f"{summary.classified} of {summary.photos} photos are classified in"
            f" {summary.out}/answers, {summary.photos_per_s:.1f} a second"
        )
    for fault in summary.faults[:10]:
        say(fault)
    if summary.failed:
        say(f"photos without an answer are listed in {summary.out}/failed")
    if summary.unfinished:
        raise UserError(
            f"{summary.unfinished} of {summary.photos} photos are not done;"
            " the same command goes on"
        )
    if summary.failed:
        raise UserError(f"{summary.failed} of {summary.photos} photos could not be classified")


def _show(answers: "list[tuple[Path, Result]]", json_: bool) -> None:
    if json_:
        print_json([as_json(file, result) for file, result in answers])
        return
    rows: list[list[Any]] = [
        [printable(str(file)), f"error: {result.error}" if result.error else _answer(result)]
        for file, result in answers
    ]
    # A photo that was not sent has no model to its name.
    served = max((result for _, result in answers), key=lambda result: result.model_version)
    title = f"{served.model} version {served.model_version}" if served.model else "no answer"
    print_table(title, ["photo", "answer"], rows)


def _answer(result: "Result") -> str:
    named = ", ".join(f"{found.label} {found.probability:.1%}" for found in result.classes)
    return f"not sure: {named}" if result.below_threshold else named


def _read(files: list[Path]) -> "Iterator[bytes | Result]":
    """Yield the bytes of those that can be read, and what is wrong with the others."""
    from service.client.client import Result

    for file in files:
        try:
            yield content(str(file))
        except OSError as error:
            yield Result(error=f"cannot be read: {reason(error)}")


def _files(places: list[Path]) -> list[Path]:
    """Return the photos in folders and tables, and those that are named; say what was left out."""
    left_out = LeftOut()
    files = [file for place in places for file, _ in photos_in(place, left_out)]
    if not files:
        there = "".join(f" ({line})" for line in left_out.lines())
        raise UserError(f"no photos there{there}; give photos, or folders with photos in them")
    for line in left_out.lines():
        say(line)
    return list(dict.fromkeys(files))
