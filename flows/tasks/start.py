"""The weights that a fine-tuning starts from, found by the name that a person gives."""

from pathlib import Path
from typing import TYPE_CHECKING

from terminal import UserError

if TYPE_CHECKING:
    from training.model.pretrained import Start


def start_from(
    source: str, *, repository: Path = Path("models"), runs_dir: Path = Path("runs")
) -> "Start":
    """Read the weights to fine-tune: a run, a released MODEL[:VERSION], a file, or a public one.

    Raises:
        TrainingError: The weights are not there, or are not ResNet18's.
        ServiceError: The model or the version is not in the repository.
        UserError: Nothing has that name.
    """
    from service.models.repository import ModelRepository
    from training.model import hub, pretrained

    if source == "torchvision" or source.startswith(hub.PREFIXES) or Path(source).exists():
        return pretrained.read(source)
    model, version = released_version(
        source, repository, else_say="; or give torchvision, or hf-hub:OWNER/NAME"
    )
    path = ModelRepository(repository).path(model, version)
    return pretrained.released(path, f"{model}:{version}", runs_dir)


def released_version(name: str, repository: Path, *, else_say: str = "") -> tuple[str, int]:
    """Return the model and the version that MODEL[:VERSION] names; without one, the serving one.

    Args:
        name: What a person gave, where there is no file of that name.
        repository: The model repository.
        else_say: What else a person may give, for the error.

    Raises:
        UserError: There is no such model or version.
    """
    from service.models.repository import ModelRepository

    model, _, number = name.partition(":")
    store = ModelRepository(repository)
    models = store.models()
    if model not in models:
        raise UserError(
            f"there is nothing at {name!r}: no run directory, no file, and no model in"
            f" {repository} ({', '.join(models) or 'which has none'}){else_say}"
        )
    version = int(number) if number.isdecimal() else store.serving(model)
    known = store.versions(model)
    if (number and not number.isdecimal()) or version not in known:
        raise UserError(
            f"{model} has no version {number or version}; there are {', '.join(map(str, known))}"
        )
    return model, version
