"""Where Prefect's pages send a browser."""

from pathlib import Path

from flows.tasks.links import SETTING, link


def test_pages_of_runs_are_found_where_they_are_served(tmp_path, monkeypatch):
    """Below the address that serves the runs, spaces and Hangul and all; others are files."""
    monkeypatch.chdir(tmp_path)
    page = Path("runs") / "밥 1" / "report.html"
    assert (tmp_path / page).as_uri() == link(page)

    monkeypatch.setenv(SETTING, "http://gpu-host:8003/")

    assert "http://gpu-host:8003/%EB%B0%A5%201/report.html" == link(page)
    assert (tmp_path / "models" / "1").as_uri() == link(Path("models/1"))


def test_what_lies_in_a_bucket_has_its_url():
    """And no file of this machine is made up for it."""
    assert "s3://bucket/models/food" == link(Path("s3://bucket/models/food"))
