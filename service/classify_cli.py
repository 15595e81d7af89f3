"""The verb `classify`: ask a service what is on photos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal import UserError, print_json, print_table, progress

if TYPE_CHECKING:
    from service.client import Result

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def classify(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    address: Annotated[str, typer.Option(help="The service.")] = "localhost:8500",
    top_k: Annotated[int, typer.Option(min=1, help="Classes per photo.")] = 5,
    model: Annotated[str, typer.Option(help="Which model.", show_default="the only one")] = "",
    as_json: Json = False,
) -> None:
    """Ask a service what is on photos.

    A photo that cannot be read is listed with its reason, the others are answered, and the exit
    code is 1.

    Example: hansang classify photos/val --address localhost:8500 --top-k 3
    """
    from service.client import Classifier

    files = _files(photos)
    results: list[Result] = []
    with Classifier(address) as classifier, progress("classify") as report:
        for start in range(0, len(files), 32):
            chunk = files[start : start + 32]
            images, unread = _read(chunk)
            answers = iter(classifier.classify(images, top_k, model=model))
            results += [unread.get(path) or next(answers) for path in chunk]
            report(len(results), len(files))
    if as_json:
        print_json(
            [
                {
                    "photo": str(path),
                    "error": result.error,
                    "model": result.model,
                    "model_version": result.model_version,
                    "classes": [
                        {"label": c.label, "probability": c.probability} for c in result.classes
                    ],
                }
                for path, result in zip(files, results, strict=True)
            ]
        )
    else:
        rows = [
            [path, f"error: {result.error}" if result.error else _answer(result)]
            for path, result in zip(files, results, strict=True)
        ]
        # A photo that was not sent has no model to its name.
        served = max(results, key=lambda result: result.model_version)
        title = f"{served.model} version {served.model_version}" if served.model else "no answer"
        print_table(title, ["photo", "answer"], rows)
    num_bad = sum(result.error is not None for result in results)
    if num_bad:
        raise UserError(f"{num_bad} of {len(files)} photos could not be classified")


def _answer(result: "Result") -> str:
    return ", ".join(f"{found.label} {found.probability:.1%}" for found in result.classes)


def _read(files: list[Path]) -> tuple[list[bytes], "dict[Path, Result]"]:
    """Return the bytes of those that can be read, and what is wrong with the others."""
    from service.client import Result

    images: list[bytes] = []
    unread: dict[Path, Result] = {}
    for path in files:
        try:
            images.append(path.read_bytes())
        except OSError as error:
            unread[path] = Result(error=f"cannot be read: {error.strerror}")
    return images, unread


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
    return files
