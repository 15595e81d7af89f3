"""The reference pages name everything that there is to set and to see."""

import dataclasses
import re

import typer
from typer.main import get_command

from service.cli.serve import serve
from service.config import ServerConfig
from service.observability.metrics import REJECTIONS, Metrics
from tests.paths import ROOT

REFERENCE = ROOT / "docs" / "reference"
SETTINGS = (REFERENCE / "server-settings.md").read_text()
METRICS = (REFERENCE / "metrics.md").read_text()


def first_cells(page: str) -> list[str]:
    """Return the first cells of a page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def flags() -> list[str]:
    """Return every flag of `hansang serve`."""
    app = typer.Typer()
    app.command()(serve)
    options = [parameter for parameter in get_command(app).params if parameter.name != "help"]
    return [option.opts[0] for option in options if option.opts[0].startswith("--")]


def test_every_flag_is_explained_once_and_in_order():
    """A new flag of `hansang serve` needs its line; one that went takes its line with it."""
    known = [flag for flag in flags() if "completion" not in flag]
    assert sorted(known) == sorted(first_cells(SETTINGS))


def test_every_setting_has_a_flag():
    """What a ServerConfig holds can be said on the command line; how often it polls is ours."""
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags()} | {"drain_delay_s"}
    fields = {field.name for field in dataclasses.fields(ServerConfig)}
    assert fields - names == {"poll_interval_s"}


def test_every_metric_is_explained():
    """Each family of `/metrics` has its line, and each reason of a rejection."""
    exported = {family.name for family in Metrics().registry.collect()}
    explained = set(first_cells(METRICS))
    assert {name for name in exported if name.startswith("hansang_")} <= explained
    assert explained - exported == set(REJECTIONS)


def test_metric_labels_are_those_of_the_server():
    """The page lists each metric's labels as the server sets them."""
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            line = re.search(rf"^\| `{metric._name}` \| ([^|]*)\|", METRICS, re.MULTILINE)
            assert line, metric._name
            assert list(metric._labelnames) == line[1].replace(",", " ").split()
