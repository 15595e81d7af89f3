"""Where each version of a model repository came from: run, photos, code, figures, decision."""

from pathlib import Path
from typing import Any

from service.errors import NotFoundError, ServiceError
from service.models.model import Model
from service.models.repository import ModelRepository


def versions(repository: Path, model: str | None = None) -> list[dict[str, Any]]:
    """Return a row for each version, models by name and the newest version first.

    Each has model, version, serves, run, dataset, commit, top1, released and why. What is not
    known, such as of a version that was published by hand, is None.

    Raises:
        NotFoundError: There is no such model.
        ServiceError: A history is damaged.
    """
    store = ModelRepository(repository)
    names = store.models()
    if model is not None and model not in names:
        raise NotFoundError(
            f"no model {model!r} in {repository}; there is {', '.join(names) or 'none'}"
        )
    return [
        row
        for name in ([model] if model else names)
        for row in sorted(_of_model(store, name), key=lambda row: -row["version"])
    ]


def _of_model(store: ModelRepository, model: str) -> list[dict[str, Any]]:
    try:
        serving = store.serving(model)
    except ServiceError:
        serving = None
    released = {
        line["version"]: line for line in store.history(model) if line["event"] == "released"
    }
    return [
        {
            "model": model,
            "version": version,
            "serves": version == serving,
            **_source(store.path(model, version), released.get(version, {})),
        }
        for version in store.versions(model)
    ]


def _source(path: Path, line: dict[str, Any]) -> dict[str, Any]:
    try:
        told = Model(path, device="cpu").metadata
    except ServiceError:
        told = None
    return {
        "run": line.get("run") or (told and told.run_id) or None,
        "dataset": line.get("dataset_hash") or (told and told.dataset_hash) or None,
        "commit": (told and told.git_commit) or None,
        "top1": line.get("challenger_top1"),
        "released": line.get("time"),
        "why": line.get("reason"),
    }
