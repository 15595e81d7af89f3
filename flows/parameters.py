"""What deployments ask for: pydantic models, so that the UI of Prefect shows and checks a form."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_CONFIG = ConfigDict(frozen=True, extra="forbid")


class Places(BaseModel):
    """Where things lie, on the machine that runs the flow."""

    model_config = _CONFIG

    runs_dir: Path = Field(Path("runs"), description="Where runs lie.")
    cache_dir: Path = Field(Path("cache"), description="Where dataset caches lie.")
    repository: Path = Field(Path("models"), description="The model repository.")


class Training(BaseModel):
    """How to train."""

    model_config = _CONFIG

    recipe: str = Field("scratch", description="scratch, long or baseline.")
    epochs: int | None = Field(None, ge=1, description="Epochs; the recipe's own if empty.")
    image_size: int = Field(224, ge=32, le=512, description="Side of the square, in pixels.")
    overrides: dict[str, str] = Field(
        default_factory=dict, description="Settings, e.g. optimizer.lr: 0.02."
    )
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="Where to train.")

    def arguments(self) -> list[str]:
        """Return it as options of `python -m training`."""
        found = ["--recipe", self.recipe, "--image-size", str(self.image_size)]
        found += ["--device", self.device]
        if self.epochs is not None:
            found += ["--epochs", str(self.epochs)]
        for key, value in self.overrides.items():
            found += ["--set", f"{key}={value}"]
        return found


class Nightly(BaseModel):
    """When new photos are worth a training, and when they are refused."""

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
