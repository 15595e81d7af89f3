"""`python -m training` takes the options of `hansang train`: for subprocesses and torchrun."""

import typer

from terminal import run
from training.cli.train import train


def main() -> None:
    """Run `hansang train` without the other verbs."""
    run(lambda: typer.run(train))


if __name__ == "__main__":
    main()
