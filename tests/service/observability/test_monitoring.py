"""The dashboard and the alert rules: they ask for what the server exports, and alert when told."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.observability.metrics import Metrics
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
RULES_TESTS = DEPLOY / "prometheus" / "alerts.test.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "hansang.json"
SCRAPED = {"job", "instance", "le"}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus)"
)


def exported() -> dict[str, set[str]]:
    """Return each sample that a Prometheus sees, and its labels."""
    metrics = Metrics()
    labels: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            names = set(metric._labelnames)
            for suffix in ("", "_total", "_sum", "_count", "_bucket"):
                labels[metric._name + suffix] = names
    known = {}
    for family in metrics.registry.collect():
        for suffix in ("", "_total", "_sum", "_count", "_bucket"):
            name = family.name + suffix
            if family.type == {"": "gauge", "_total": "counter"}.get(suffix, "histogram"):
                known[name] = labels.get(name, set()) | SCRAPED
    return known


def recorded() -> set[str]:
    """Return the names that the rules record."""
    return set(re.findall(r"record: (\S+)", RULES.read_text()))


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield re.search(r"label_values\((.*), \w+\)", variable["query"]["query"])[1]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


@pytest.mark.parametrize("path", [RULES, RULES_TESTS, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_is_exported(path):
    """A metric that was renamed in the server, or a label that it lacks, is found here."""
    text = path.read_text().replace("\\", "")
    known = exported()
    found = re.findall(r"\b((?:hansang|process)_[a-z_]+)\b(?:\{([^}]*)\})?", text)
    assert len(found) > 10
    for name, selector in found:
        assert name in known, f"{name} is not exported"
        labels = {label for label, _ in re.findall(r"(\w+)\s*(=~|!=|=|!~)", selector)}
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"


def test_everything_of_the_server_is_on_the_dashboard():
    """A metric that nobody looks at, there or through a recorded rule, need not be exported."""
    asked = set(re.findall(r"\bhansang_[a-z_]+", DASHBOARD.read_text() + RULES.read_text()))
    for family in Metrics().registry.collect():
        if family.name.startswith("hansang_"):
            assert any(name.startswith(family.name) for name in asked), family.name


def test_recorded_names_are_recorded():
    """What the dashboard and the alerts take from the rules is there."""
    for text in (DASHBOARD.read_text(), RULES.read_text()):
        assert set(re.findall(r"\bhansang:[a-z0-9_:]+", text)) <= recorded()


def test_every_alert_says_what_to_do_and_is_tested():
    """Each has a severity, a sentence, a heading in docs/guides/alerts.md and a test."""
    guide = (DEPLOY.parent / "docs/guides/alerts.md").read_text()
    alerts = re.findall(
        r"- alert: (\w+)\n(.*?)(?=\n      - alert|\Z)", RULES.read_text(), re.DOTALL
    )
    assert len(alerts) > 10
    for name, body in alerts:
        assert re.search(r"severity: (critical|warning|info)", body), name
        assert "summary:" in body, name
        assert f"\n## {name}\n" in guide, f"docs/guides/alerts.md lacks {name}"
        fired = rf"alertname: {name}\n        eval_time: \w+\n        exp_alerts:"
        assert re.search(fired, RULES_TESTS.read_text()), f"no test fires {name}"
        silent = rf"alertname: {name}\n        eval_time: \w+\n(?!        exp_alerts:)"
        assert re.search(silent, RULES_TESTS.read_text()), f"no test is silent on {name}"


@promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        ["check", "config", "prometheus.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts(command):
    """Prometheus itself reads the rules, and its own runner lets every alert fire."""
    ran = subprocess.run(
        ["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, timeout=120
    )
    assert 0 == ran.returncode, ran.stdout + ran.stderr


@promtool
def test_promtool_accepts_every_expression_of_the_dashboard(tmp_path):
    """Each panel's query, with Grafana's variables filled in, is PromQL."""
    rules = [
        {"record": f"panel:number:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, expression in enumerate(expressions())
    ]
    assert len(rules) > 30
    written = tmp_path / "panels.yml"
    written.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    ran = subprocess.run(
        ["promtool", "check", "rules", written], capture_output=True, text=True, timeout=60
    )
    assert 0 == ran.returncode, ran.stdout + ran.stderr


READ_BY_GRAFANAS_TYPES = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(json.dumps(Dashboard.from_json(json.load(sys.stdin)), cls=JSONEncoder))
"""


def test_grafanas_own_types_read_the_dashboard_without_a_loss():
    """Every field of it is one that Grafana 10 has; one of Prometheus' annotations is extra."""
    # The environment of make test-deploy, of which a tool is on the path.
    tool = shutil.which("moto_server")
    python = Path(tool).with_name("python") if tool else None
    if python is None or subprocess.run([python, "-c", "import grafana_foundation_sdk"]).returncode:
        pytest.skip("grafana-foundation-sdk is not installed (make test-deploy)")
    source = json.loads(DASHBOARD.read_text())
    ran = subprocess.run(
        [python, "-c", READ_BY_GRAFANAS_TYPES],
        input=json.dumps(source), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    # Its types know no fields that a data source adds to an annotation.
    for annotation in source["annotations"]["list"]:
        annotation.pop("titleFormat", None)
    assert [] == list(_lost(source, json.loads(ran.stdout)))


def _lost(given: object, read: object, at: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            yield from _lost(value, read[key], f"{at}.{key}") if key in read else [f"{at}.{key}"]
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from _lost(one, other, f"{at}[{number}]")
    elif given != read:
        yield at
