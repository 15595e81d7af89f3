"""A report says why a mistake was made, where the weights and the photos are there."""

import shutil

from training.reports import report
from training.reports.mistakes import mistakes
from training.runs.run_record import RunRecord


def test_a_mistake_shows_why_it_was_made(run_dir):
    """Beside each photo the same one, lit where the class was seen; three training photos below.

    The page stays small: no more than 60 kB a mistake.
    """
    record = RunRecord.open(run_dir)
    wrong = min((record.val.predicted != record.val.targets).sum(), 24)
    rows, why_none = mistakes(record, None)

    assert why_none is None
    assert wrong == len(rows) > 0
    for row in rows:
        assert row["photo"] != row["lit"]
        assert 3 == len(row["alike"])
        # Photos of these classes alone are compared.
        assert {label for label, _ in row["alike"]} <= {each["is"] for each in rows} | {
            each["taken_for"] for each in rows
        }
        assert sum(map(len, (row["photo"], row["lit"], *dict(row["alike"]).values()))) < 60_000
    assert wrong * 5 == report.write_report(run_dir).read_text("utf-8").count("<img ")


def test_a_report_without_weights_or_photos_shows_no_reasons(run_dir, tmp_path):
    """The mistakes are there as before."""
    copy = shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints")

    rows, why_none = mistakes(RunRecord.open(copy), None)

    assert why_none is None
    assert rows
    assert all(row["photo"] and not row["lit"] and not row["alike"] for row in rows)
