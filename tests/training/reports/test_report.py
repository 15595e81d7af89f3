"""A report holds the run's numbers, opens in a browser, and is made from files alone."""

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import pytest

from training.datasheet.inspection import inspect
from training.datasheet.sheet import write as write_sheet
from training.errors import RunError
from training.evaluation.selective import curve
from training.reports import report
from training.reports.compare import compare, difference
from training.reports.compare_page import write as write_comparison
from training.reports.run_numbers import numbers_of
from training.runs.run_record import RunRecord

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def written(run_dir):
    """The page of the finished run."""
    return report.write_report(run_dir)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_the_report_opens_in_a_browser(written, open_page, width, dark):
    """No console message, no request, nothing wider than the screen; headings and figures."""
    page = open_page(written, width=width, dark=dark)

    assert [] == page.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert ["first"] == page.locator("h1").all_inner_texts()
    assert [
        "Learning, and where it converges", "Class by class", "What is taken for what",
        "The most confident mistakes", "Can its confidence be trusted?",
        "When should it say 'not sure'?", "Time",
        "How to reproduce it",
    ] == page.locator("h2").all_inner_texts()  # fmt: skip
    figures = page.locator("figure [role=img]")
    assert 8 == figures.count()
    for index in range(figures.count()):
        assert len(figures.nth(index).get_attribute("aria-label") or "") > 30
        box = figures.nth(index).locator("svg").bounding_box()
        assert box is not None
        assert box["height"] > 80
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length"
    assert 0 == page.evaluate(broken)
    assert _contrast(page) == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_the_data_sheet_opens_in_a_browser(dishes, tmp_path, open_page, width):
    """No console message, no request; a photo of each class, its name drawn in its script."""
    sheet = inspect(dishes)
    page = open_page(write_sheet(sheet, tmp_path / "sheet"), width=width, dark=width < 500)

    assert [] == page.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [
        "What is wrong", "One photo of each class", "Photos per class and split",
        "Sizes, formats, colours",
    ] == page.locator("h2").all_inner_texts()  # fmt: skip
    assert list(sheet.folder.labels) == page.locator("h2#classes + ul strong").all_inner_texts()
    assert 2 == page.locator("figure [role=img]").count()
    assert "loaded" in page.evaluate(
        "document.fonts.ready.then(() => [...document.fonts].map(f => f.status))"
    )
    assert _contrast(page) == []


def test_a_comparison_opens_in_a_browser(run_dir, tmp_path, open_page):
    """Curves together, settings that differ, differences class by class."""
    other = shutil.copytree(run_dir, tmp_path / "second")
    about = json.loads((other / "config.json").read_text())
    about["config"]["optimizer"]["lr"] = 0.123
    (other / "config.json").write_text(json.dumps(about))
    found = compare([run_dir, other])
    write_comparison(found, tmp_path / "compare.html")
    page = open_page(tmp_path / "compare.html", width=390)

    assert [] == page.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert (("optimizer.lr", ("0.05", "0.123")),) == found.settings
    assert "0.123" in page.locator("main").inner_text()
    delta = found.deltas[1]
    assert delta is not None
    assert (0.0, 0, 0, 1.0) == (delta.value, delta.gained, delta.lost, delta.p)


def _contrast(page) -> list[str]:
    """Return texts whose colour is less than 4.5 : 1 apart from the page's (WCAG 2, AA)."""
    return page.evaluate("""() => {
      const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
      const bad = [];
      for (const e of document.querySelectorAll("p, li, td, th, dt, dd, a, h1, h2, figcaption")) {
        let b = e; while (b && getComputedStyle(b).backgroundColor === "rgba(0, 0, 0, 0)") b = b.parentElement;
        const x = light(getComputedStyle(e).color), y = light(getComputedStyle(b || document.body).backgroundColor);
        const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
        if (ratio < 4.5) bad.push(e.tagName + " " + e.textContent.slice(0, 30) + " " + ratio.toFixed(2));
      }
      return bad;
    }""")  # noqa: E501


def test_the_report_is_one_file_without_script(written):
    """No script, no link to anywhere but within the page; the figures lie beside it, too."""
    text = written.read_text("utf-8")

    assert "<script" not in text
    assert [] == re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    names = {"accuracy", "loss", "speed", "confusion", "weakest", "reliability",
             "reliability-calibrated", "coverage"}  # fmt: skip
    for ending in ("png", "svg"):
        assert names == {path.stem for path in (written.parent / "plots").glob(f"*.{ending}")}


def test_the_reports_numbers_are_those_of_the_run_and_of_scikit_learn(run_dir):
    """From the stored predictions: the run's own accuracies, and scikit-learn's of each class."""
    from sklearn.metrics import f1_score, precision_score, recall_score

    record = RunRecord.open(run_dir)
    found = numbers_of(record).to_dict(record.labels)

    result = json.loads((run_dir / "result.json").read_text())
    assert found["scores"]["val"]["top1"] == pytest.approx(result["val_top1"])
    assert found["scores"]["test"]["top1"] == pytest.approx(result["test_top1"])
    assert found["scores"]["val"]["ece"] == pytest.approx(result["ece_before"], abs=1e-6)
    assert found["scores"]["val"]["top1_interval"] == pytest.approx(result["val_interval"])
    val = record.val
    for name, function in (("precision", precision_score), ("recall", recall_score),
                           ("f1", f1_score)):  # fmt: skip
        expected = function(
            val.targets, val.predicted, labels=range(len(record.labels)), average=None,
            zero_division=float("nan"),
        )  # fmt: skip
        for row in found["per_class"]:
            value = row[name]["value"]
            reference = expected[record.labels.index(row["label"])]
            assert (value is None) == (reference != reference)
            assert value is None or value == pytest.approx(reference)
    assert found["convergence"]["epochs"] == 6


def test_mistakes_are_shown_from_the_cache_or_the_folder_or_not_at_all(run_dir, dishes, tmp_path):
    """Without the cache the folder of photos does; without both the page says so."""
    copy = shutil.copytree(run_dir, tmp_path / "run")
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "cache": str(tmp_path / "gone")}))

    gone = report.write_report(copy).read_text("utf-8")
    from_folder = report.write_report(copy, dishes).read_text("utf-8")

    wrong = (RunRecord.open(run_dir).val.predicted != RunRecord.open(run_dir).val.targets).sum()
    assert wrong > 0
    assert "The photos cannot be shown" in gone
    assert 0 == gone.count("<img ")
    assert min(wrong, 24) == from_folder.count("<img ")


def test_a_run_under_way_has_a_report_of_what_there_is(run_dir, tmp_path):
    """Curves without predictions; the page says that the run is not finished."""
    running = tmp_path / "running"
    running.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run_dir / name, running)

    text = report.write_report(running).read_text("utf-8")

    assert "The run is not finished" in text
    assert "stored no predictions" in text


BEGUN = '{"config": {}, "dataset_hash": "0", "labels": [], "cache": "cache"}'
"""Of a run that has begun."""


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "damaged"),
        ({"config.json": BEGUN, "metrics.jsonl": "{}"}, "metrics.jsonl.*damaged"),
        ({"config.json": BEGUN, "metrics.jsonl": "{"}, "metrics.jsonl.*damaged"),
        ({"config.json": BEGUN}, "no finished epoch"),
    ],
    ids=["nothing", "cut config", "no epoch number", "cut line", "no epoch"],
)
def test_what_is_no_run_is_an_error(tmp_path, files, sentence):
    """Each is one sentence that names the file."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    with pytest.raises(RunError, match=sentence):
        report.write_report(tmp_path)


def test_the_command_of_a_report_trains_that_very_config(run_dir):
    """Its options and settings give the run's config again."""
    import shlex

    from training.config import TrainConfig
    from training.recipes import recipe

    record = RunRecord.open(run_dir)
    words = shlex.split(report.command(record))
    names = {"--epochs": "epochs", "--image-size": "image_size", "--seed": "seed"}
    overrides = {names[a]: b for a, b in itertools.pairwise(words) if a in names}
    pairs = itertools.pairwise(words)
    overrides |= dict(b.split("=", 1) for a, b in pairs if a == "--set")

    again = recipe(words[words.index("--recipe") + 1]).with_overrides(overrides)

    assert TrainConfig.from_dict(record.config) == again


def test_a_difference_of_pairs_is_what_only_one_gets_right():
    """30 gained and 10 lost of 400: five points, beyond chance; McNemar's exact p."""
    import numpy as np

    first, second = np.zeros(400, bool), np.zeros(400, bool)
    first[:200] = second[:200] = True
    first[200:210] = True
    second[210:240] = True

    found = difference(first, second)

    assert (30, 10) == (found.gained, found.lost)
    assert found.value == pytest.approx(0.05)
    low, high = found.interval
    assert 0 < low < 0.05 < high < 0.09
    # Twice the chance of 30 heads or more in 40 throws.
    assert found.p == pytest.approx(0.002221, rel=1e-3)


def test_runs_on_other_photos_are_compared_unpaired():
    """Newcombe's own example: 56 of 70 against 48 of 80 is 0.0524 to 0.3339."""
    import numpy as np

    first, second = np.arange(80) < 48, np.arange(70) < 56

    found = difference(first, second, paired=False)

    assert found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_one_run_is_no_comparison(run_dir):
    """It is said what the verb needs."""
    with pytest.raises(RunError, match="two runs"):
        compare([run_dir])


def test_the_summary_says_which_threshold_halves_the_mistakes(run_dir):
    """With what it answers and gets right, and the command that sets it."""
    record = RunRecord.open(run_dir)
    right = np.arange(100) % 10 > 0
    points = curve(np.where(right, 0.9, 0.4 + 0.03 * (np.arange(100) // 10)), right)
    numbers = dataclasses.replace(numbers_of(record), answered=points)
    (sentence,) = [each for each in report.summary(record, numbers) if "confidence is" in each]

    assert (
        "0.56 or more, it answers 94 % of the validation photos, 96 % of them rightly" in sentence
    )
    assert f"'hansang release {run_dir} --min-confidence 0.56'" in sentence
    assert numbers.halving.interval == points[6].interval
