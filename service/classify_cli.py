"""The verb `classify`: ask a service what is on photos, a few or thousands."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.results_file import ResultsFile, as_json
from terminal import UserError, print_json, print_table, progress, say

if TYPE_CHECKING:
    from service.client import Result

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def classify(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    address: Annotated[str, typer.Option(help="The service.")] = "localhost:8500",
    top_k: Annotated[int, typer.Option(min=1, help="Classes per photo.")] = 5,
    model: Annotated[str, typer.Option(help="Which model.", show_default="the only one")] = "",
    version: Annotated[int, typer.Option(min=0, help="Which version; 0: the one that serves.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write results to this .csv or .jsonl; what is in it is not asked again."
        ),
    ] = None,
    token: Annotated[
        str,
        typer.Option(envvar="HANSANG_TOKEN", help="Bearer token.", show_default=False),
    ] = "",
    ca: Annotated[
        Path | None, typer.Option(help="TLS: authority of the service's certificate, PEM.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="mTLS: own certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="mTLS: its private key, PEM.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask a service what is on photos.

    With --out every answer is written as it comes: after an interruption the same command goes on
    where it was. A photo that cannot be read or classified spares the others; such photos are
    listed with their reasons, in OUT.failed, and the exit code is 1.

    Example: hansang classify photos/val --address localhost:8500 --out results.csv
    """
    from service.client import Classifier
    from service.errors import ServiceError

    files = _files(photos)
    with contextlib.ExitStack() as opened:
        results = opened.enter_context(ResultsFile(out, top_k)) if out is not None else None
        left = [file for file in files if results is None or str(file) not in results]
        client = opened.enter_context(
            Classifier(address, token=token, ca=ca, certificate=certificate, key=key)
        )
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
    if results is None:
        _show(answers, json_)
    else:
        summary = {
            "photos": len(files), "classified": done - len(failed), "failed": len(failed),
            "out": str(out),
        }  # fmt: skip
        if json_:
            print_json(summary)
        else:
            print(f"{summary['classified']} of {len(files)} photos are classified in {out}")
    if failed:
        if results is not None:
            for file, reason in failed[:10]:
                say(f"{file}: {reason}")
            say(f"all of them: {results.failed}")
        raise UserError(f"{len(failed)} of {len(files)} photos could not be classified")


def _show(answers: "list[tuple[Path, Result]]", json_: bool) -> None:
    if json_:
        print_json([as_json(file, result) for file, result in answers])
        return
    rows: list[list[Any]] = [
        [file, f"error: {result.error}" if result.error else _answer(result)]
        for file, result in answers
    ]
    # A photo that was not sent has no model to its name.
    served = max((result for _, result in answers), key=lambda result: result.model_version)
    title = f"{served.model} version {served.model_version}" if served.model else "no answer"
    print_table(title, ["photo", "answer"], rows)


def _answer(result: "Result") -> str:
    return ", ".join(f"{found.label} {found.probability:.1%}" for found in result.classes)


def _read(files: list[Path]) -> "Iterator[bytes | Result]":
    """Yield the bytes of those that can be read, and what is wrong with the others."""
    from service.client import Result

    for file in files:
        try:
            yield file.read_bytes()
        except OSError as error:
            yield Result(error=f"cannot be read: {error.strerror}")


def _is_photo(file: Path) -> bool:
    # macOS leaves hidden files such as ._soup.jpg, which are no photos.
    return file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()


def _files(photos: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in photos:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if _is_photo(file))
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no photo or folder {path}")
    if not files:
        raise UserError("no photos there; give photos, or folders with photos in them")
    return list(dict.fromkeys(files))
