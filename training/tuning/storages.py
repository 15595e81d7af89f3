"""The storage of a study's trials: SQLite in its folder, or a database by URL."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna

from training.errors import ConfigError, StoppedError
from training.tuning.rungs import Rungs

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_WAIT_S = 60
"""How long SQLite waits for another worker's write."""


def url_of(storage: str | None, folder: Path) -> str:
    """Return the storage's URL for SQLAlchemy; without one, that of SQLite in the study's folder.

    Raises:
        ConfigError: It is no URL.
    """
    if storage is None:
        path = str((folder / "study.db").resolve())
        if "?" not in path:
            return f"sqlite:///{path}"
        # SQLAlchemy would take what comes after it for options, and write to another file.
        return f"sqlite:///file:{quote(path)}?uri=true"
    if "://" not in storage:
        raise ConfigError(
            f"--storage {storage!r} is no URL; give postgresql://USER@HOST/DATABASE or"
            " sqlite:///PATH"
        )
    # With the driver that is installed: SQLAlchemy's default is an older one.
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", storage)


def without_password(url: str) -> str:
    """Return a URL that may be shown: passwords are hidden."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        # A URL that cannot be parsed may have a password anywhere.
        return url.partition("://")[0] + "://…"
    if parts.host and "@" in parts.host:
        # Part of a password with an @, which should have been written as %40.
        parts = parts.set(host=parts.host.rpartition("@")[2])
    query = {key: "***" if "pass" in key else value for key, value in parts.query.items()}
    return parts.set(query=query).render_as_string(hide_password=True)


@contextlib.contextmanager
def failing_in_words() -> Iterator[None]:
    """Explain a storage that fails in the middle of a search.

    Raises:
        StoppedError: The storage failed; checkpoints are saved.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise StoppedError(
            f"the study's storage failed: {reason}; checkpoints are saved, and the same command"
            " goes on"
        ) from error


def storage_of(url: str) -> "RDBStorage":
    """Open a storage by its URL for SQLAlchemy.

    Raises:
        ConfigError: It cannot be reached, or its driver is not installed.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite:
        options = {"connect_args": {"timeout": _WAIT_S}}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, ValueError, ImportError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ConfigError(
            f"the storage {without_password(url)} cannot be used: {reason}"
        ) from error


def open_or_create(name: str, url: str) -> optuna.Study:
    """Open a study in a storage, or create it there.

    Raises:
        ConfigError: The storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=name, storage=storage_of(url), direction="maximize",
        pruner=Rungs(), load_if_exists=True,
    )  # fmt: skip
