"""What every verb that learns from photos does first: look at the folder, and say what it sees."""

import os
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import StorageError, require_writable
from terminal import no_progress, progress, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.data.cache import DatasetCache
    from training.data.dataset import PhotoFolder
    from training.errors import DataError
    from training.model.pretrained import Start

_NAME_BYTES = 180
MOST = 10
"""So many findings of a kind are printed; files have all of them."""


def look(data: Path, cache_dir: Path, *, seed: int = 0, group: str = "") -> "PhotoFolder":
    """Scan a folder or a table of photos; say what was left out, and how names were understood.

    Raises:
        DataError: It cannot be trained on, or the rule for groups fits no photo.
        StorageError: The cache's folder cannot be made.
    """
    if find_spec("torch") is None:
        # Said at once, and not after a look at many photos.
        raise ModuleNotFoundError("torch is not installed", name="torch")
    from training.data.dataset import scan

    folder = scan(data, seed=seed, group=group)
    # One of the processes that train together says it for all.
    if os.environ.get("RANK", "0") == "0":
        for line in folder.lines():
            say(line)
    # A folder that is there may hold the cache already, and need not be written.
    if not cache_dir.is_dir():
        require_writable(cache_dir, "--cache-dir")
    return folder


def look_again(data: Path, cache_dir: Path, *, group: str = "") -> "PhotoFolder | DataError":
    """Look at the photos of a run that goes on, or return why nothing can be made of them.

    The run needs no photos as long as the cache that it began with is there.
    """
    from training.errors import DataError

    try:
        return look(data, cache_dir, group=group)
    except DataError as error:
        return error
    except StorageError as error:
        return DataError(str(error))


def prepared(
    folder: "PhotoFolder | DataError", image_size: int, cache_dir: Path, *,
    begun: "Mapping[str, Any] | None" = None, start: "Start | None" = None, leads: bool = True,
) -> "DatasetCache":  # fmt: skip
    """Return the cache of photos that were looked at; say which could not be read.

    Of processes that train together, the one that leads says it.

    Args:
        folder: What `look` or `look_again` returned.
        image_size: Side of the model's square, in pixels.
        cache_dir: Where caches lie.
        begun: What `config.json` says of a run that goes on: with the photos that it began with.
        start: Weights that a new run starts from, which must not have learnt what judges it.
        leads: Whether this process speaks for those that train together.

    Raises:
        DataError: As `training.data.prepare.prepare`, `photos_to_go_on_with` or `require_unseen`.
    """
    from training.data.begun import photos_to_go_on_with
    from training.data.prepare import prepare

    with progress("prepare") if leads else nullcontext(no_progress) as report:
        if begun is not None:
            cache, changed = photos_to_go_on_with(
                begun, folder, image_size, cache_root=cache_dir, progress=report
            )
            # Without a rule now, the run keeps the groups that its cache was made with.
            if not isinstance(folder, Exception) and (groups := folder.groups()):
                cache = cache.with_groups(groups)
        elif isinstance(folder, Exception):
            raise folder
        else:
            cache, changed = prepare(folder, image_size, cache_root=cache_dir, progress=report), ""
    if begun is None and start is not None:
        from training.finetuning.seen import require_unseen

        require_unseen(cache, start)
    if changed and leads:
        say(changed)
    for name, why in list(cache.bad_files.items())[: MOST if leads else 0]:
        say(f"left out: {name}: {why}")
    if leads and len(cache.bad_files) > MOST:
        say(f"and {len(cache.bad_files) - MOST} more; all of them: {cache.path}/manifest.json")
    return cache


def new_id(data: Path, what: str) -> str:
    """Return a name for a new run: of its photos, what is done with them, and the time."""
    from datetime import datetime

    return f"{title_of(data)}-{what}-{datetime.now():%Y%m%d-%H%M%S}"


def title_of(data: Path) -> str:
    """Return what runs and studies on these photos are named after.

    A file system takes 255 bytes for a name, and more comes after it.
    """
    place = data.resolve()
    title = place.stem if place.is_file() else place.name
    return os.fsencode(title)[:_NAME_BYTES].decode(errors="ignore")
