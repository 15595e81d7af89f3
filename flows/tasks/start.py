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
    model, _, number = source.partition(":")
    models = ModelRepository(repository).models() if repository.is_dir() else []
    if model in models:
        store = ModelRepository(repository)
        version = int(number) if number.isdecimal() else store.serving(model)
        known = store.versions(model)
        if (number and not number.isdecimal()) or version not in known:
            raise UserError(
                f"{model} has no version {number or version}; there are"
                f" {', '.join(map(str, known))}"
            )
        return pretrained.released(store.path(model, version), f"{model}:{version}", runs_dir)
    raise UserError(
        f"nothing to start from at {source!r}: no run directory, no file, and no model in"
        f" {repository} ({', '.join(models) or 'which has none'}); or give torchvision, or"
        " hf-hub:OWNER/NAME"
    )
