"""The verbs of the service: serve, classify, rollback."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from terminal import UserError, print_json, print_table, progress

if TYPE_CHECKING:
    from service.client import Result

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Repository = Annotated[Path, typer.Option(help="The model repository.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def serve(
    repository: Repository = Path("models"),
    model: Annotated[
        str, typer.Option(help="Serve this model alone.", show_default="all of them")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0: a free one.")] = 8500,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: none.")
    ] = 8002,
    device: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="auto: CUDA if it can be had.")
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="Most images in a run.")] = 32,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, help="Longest wait for a fuller batch, while busy.")
    ] = 1.0,
    queue_size: Annotated[int, typer.Option(min=64, help="Most images waiting.")] = 512,
    drain_s: Annotated[float, typer.Option(min=0, help="Longest drain after SIGTERM.")] = 20.0,
) -> None:
    """Serve the models of a repository over gRPC, and follow what is released into it.

    Ends with 0 after SIGTERM, when the calls in flight are answered.

    Example: hansang serve --repository models --port 8500
    """
    from service.config import ServerConfig
    from service.server import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = ServerConfig(
        repository=repository,
        model=model,
        host=host,
        port=port,
        metrics_port=metrics_port or None,
        device=device,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        queue_size=queue_size,
        drain_s=drain_s,
    )
    raise typer.Exit(run(config))


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


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    repository: Repository = Path("models"),
    as_json: Json = False,
) -> None:
    """Make the version before the serving one serve. A running server follows by itself.

    Example: hansang rollback food42
    """
    from service.model_store import ModelStore

    store = ModelStore(repository)
    version = store.rollback(model)
    if as_json:
        print_json({"model": model, "version": version, "versions": store.versions(model)})
        return
    print(f"{model}: version {version} serves now")


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
