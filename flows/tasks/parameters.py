"""Parameters of the flows: pydantic models, which Prefect's UI shows and checks as forms."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from machine import num_cores

_CONFIG = ConfigDict(frozen=True, extra="forbid")
Threshold: TypeAlias = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Less probable answers say that they are below it."),
]
_GROUP = "What belongs together: folder, or a regular expression on paths (docs/guides/groups.md)."


class Places(BaseModel):
    """Folders on the machine that runs the flow, or prefixes in a bucket."""

    model_config = _CONFIG

    runs_dir: Path = Field(Path("runs"), description="Where runs lie, also s3://…")
    cache_dir: Path = Field(Path("cache"), description="Where dataset caches lie, also s3://…")
    repository: Path = Field(Path("models"), description="The model repository, also s3://…")


class Training(BaseModel):
    """How a run is trained; the fields become options of `python -m training`."""

    model_config = _CONFIG

    recipe: str = Field("scratch", description="scratch, long or baseline.")
    epochs: int | None = Field(None, ge=1, description="Epochs; the recipe's own if empty.")
    image_size: int = Field(224, ge=32, le=512, description="Side of the square, in pixels.")
    overrides: dict[str, str] = Field(
        default_factory=dict, description="Settings, e.g. optimizer.lr: 0.02."
    )
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Where to train.")
    accept_changes: bool = Field(
        False, description="Go on with a run on another device, torch or number of threads."
    )
    group: str = Field("", description=_GROUP)

    def arguments(self) -> list[str]:
        """Return it as options of `python -m training`."""
        found = ["--recipe", self.recipe, "--image-size", str(self.image_size)]
        found += ["--device", self.device]
        found += ["--accept-changes"] if self.accept_changes else []
        if self.epochs is not None:
            found += ["--epochs", str(self.epochs)]
        if self.group:
            found += ["--group", self.group]
        for key, value in self.overrides.items():
            found += ["--set", f"{key}={value}"]
        return found


class Reviewing(BaseModel):
    """How photos are reviewed; the fields become options of `hansang review`."""

    model_config = _CONFIG

    folds: int = Field(4, ge=2, le=20, description="Parts, each held out once.")
    recipe: str = Field("scratch", description="scratch, long or baseline.")
    epochs: int = Field(20, ge=1, description="Epochs of each fold's run.")
    image_size: int = Field(64, ge=32, le=512, description="Side of the square, in pixels.")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Where to train.")
    group: str = Field("", description=_GROUP)

    def arguments(self) -> list[str]:
        """Return it as options of `hansang review`."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in self.model_dump().items()]


class Search(BaseModel):
    """How to search for better settings; every worker of a study must have the same values."""

    model_config = _CONFIG

    trials: int = Field(40, ge=1, description="Trials in all.")
    epochs: int = Field(20, ge=1, description="Epochs of each trial.")
    image_size: int = Field(224, ge=32, le=512, description="Side of the square, in pixels.")
    space: str = Field("default", description="default, or a TOML file that changes it.")
    recipe: str = Field("scratch", description="Where settings that are not searched come from.")
    seed: int = Field(0, ge=0, description="Decides the search and every trial.")
    pruning: bool = Field(True, description="Give up trials that fall behind.")
    storage: str | None = Field(
        None,
        description="URL of the study's database, without a password; if empty, HANSANG_STORAGE of"
        " the worker's environment, or SQLite.",
    )
    workers: int = Field(1, ge=1, description="Trials at a time.")
    threads: int | None = Field(None, ge=1, description="CPU threads of each; a share if empty.")
    final: int = Field(0, ge=0, description="Train the winner for so many epochs; 0 does not.")
    seeds: int = Field(1, ge=1, description="Seeds of the final run.")
    accept_changes: bool = Field(
        False, description="Go on with trials on another device, torch or number of threads."
    )
    group: str = Field("", description=_GROUP)

    @field_validator("storage")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        if url and urlsplit(url).password:
            # Prefect keeps parameters, and shows them to whoever opens the page.
            raise ValueError(
                "the URL has a password, and Prefect shows parameters to everybody; set it as"
                " HANSANG_STORAGE in the worker's environment, and leave storage empty"
            )
        return url

    def arguments(self) -> list[str]:
        """Return it as options of `hansang tune`, without the final run's and the storage.

        Whoever is on a machine reads its processes' options, and a storage may have a password.
        """
        found = ["--trials", str(self.trials), "--epochs", str(self.epochs)]
        found += ["--image-size", str(self.image_size), "--space", self.space]
        found += ["--recipe", self.recipe, "--seed", str(self.seed)]
        found += ["--pruning" if self.pruning else "--no-pruning", "--group", self.group]
        found += ["--accept-changes"] if self.accept_changes else []
        cores = num_cores()
        return [*found, "--threads", str(self.threads or max(cores // self.workers, 1))]


class Finetuning(BaseModel):
    """How trained weights are fine-tuned to other photos."""

    model_config = _CONFIG

    strategy: str = Field("auto", description="auto, or one strategy by name.")
    epochs: int | None = Field(None, ge=1, description="Epochs of a full run; 30 if empty.")
    image_size: int | None = Field(
        None, ge=32, le=512, description="Side of the square, in pixels; the source's if empty."
    )
    seeds: int = Field(3, ge=1, description="Seeds of the finalists.")
    keep: tuple[str, ...] = Field((), description="Strategies that auto never drops.")
    accept_changes: bool = Field(
        False, description="Go on with runs on another device, torch or number of threads."
    )
    overrides: dict[str, str] = Field(
        default_factory=dict, description="Settings, e.g. transfer.views: 4."
    )
    group: str = Field("", description=_GROUP)

    def arguments(self) -> list[str]:
        """Return what every run shares, as options of `hansang finetune`."""
        found = ["--group", self.group]
        if self.image_size is not None:
            found += ["--image-size", str(self.image_size)]
        found += ["--accept-changes"] if self.accept_changes else []
        for key, value in self.overrides.items():
            found += ["--set", f"{key}={value}"]
        return found


class Nightly(BaseModel):
    """When a nightly run trains, and which photos it refuses."""

    model_config = _CONFIG

    strict: bool = Field(
        False, description="Refuse photos that leak between splits, conflict or cannot be read."
    )
    min_changed: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the photos that must have changed since the last run.",
    )
    review: bool = Field(
        False, description="Guess by the run which labels are doubtful, and count the new ones."
    )
