"""From a photo that the service was unsure of to a photo to train on, by calls and real clicks."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from service.models.repository import ModelRepository
from tests.paths import ROOT
from tests.service.tiny_onnx import build

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def hansang(home: Path, *arguments: object) -> object:
    """Run a verb, and return its JSON."""
    command = [sys.executable, "-m", "hansang", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=home, env=ENVIRONMENT, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout)


@contextmanager
def served(home: Path):
    """Serve `models`, capturing what it is unsure of; give the address, and end it with grace."""
    command = [
        sys.executable, "-m", "hansang", "serve", "--repository", "models", "--host", "127.0.0.1",
        "--port", "0", "--http-port", "0", "--metrics-port", "0", "--device", "cpu",
        "--capture", "captured", "--capture-below", "0.5", "--capture-rate", "0",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=home, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("serving "):
                break
        else:
            pytest.fail("".join(lines))
        yield line.split()[-1]
        server.send_signal(signal.SIGTERM)
        server.stderr.read()


def decided(page_file: Path, table: Path) -> None:
    """Decide as a person does: the first is green, the second as it was answered, then no food."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(page_file.as_uri())
        sync_api.expect(page.locator("#facts")).to_contain_text("unsure answer · worth")
        page.locator("#other").click()
        page.keyboard.type("green")
        page.keyboard.press("Enter")
        page.locator("#right").click()
        page.keyboard.press("n")
        sync_api.expect(page.locator("#progress")).to_have_text("3 of 3 decided")
        with page.expect_download() as got:
            page.get_by_role("button", name="Download corrections.csv").click()
        got.value.save_as(table)
        browser.close()


def test_what_the_service_was_unsure_of_ends_in_train(tmp_path):
    """Serve, classify, review, click, relabel: two photos lie in train, and --undo takes them back.

    One without food is not in the table, and nothing that was captured is moved or deleted.
    """
    if shutil.which("chromium") is None:
        pytest.skip("no chromium here: apt-get install chromium")
    for label, colour in COLOURS.items():
        (tmp_path / "photos" / "train" / label).mkdir(parents=True)
        Image.new("RGB", (40, 30), colour).save(tmp_path / "photos" / "train" / label / "0.jpg")
    (tmp_path / "new").mkdir()
    for number, colour in enumerate([(90, 88, 80), (100, 70, 98), (10, 30, 28), (255, 0, 0)]):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "new" / f"{number}.jpg")
    (tmp_path / "models").mkdir()
    ModelRepository(tmp_path / "models").publish("food", build(tmp_path / "tiny.onnx"))

    with served(tmp_path) as address:
        hansang(tmp_path, "classify", "new", "--address", address)
    told = hansang(tmp_path, "review", "photos", "--captured", "captured")
    listed = json.loads((tmp_path / "photos-captured" / "review.json").read_text("utf-8"))
    decided(tmp_path / "photos-captured" / "review.html", tmp_path / "corrections.csv")
    moved = hansang(tmp_path, "relabel", "corrections.csv", "--data", "photos")

    assert {"unsure": 3} == told["kinds"]  # the red one was answered with confidence
    first, second, third = listed["suspects"]
    rows = list(csv.DictReader((tmp_path / "corrections.csv").read_text("utf-8-sig").splitlines()))
    assert [first["photo"], second["photo"]] == [row["photo"] for row in rows]
    for suspect, label, move in zip(
        (first, second), ("green", second["label"]), moved, strict=True
    ):
        target = tmp_path / "photos" / "train" / label / Path(suspect["photo"]).name
        assert Path(move["photo"]).parent == target.parent
        assert target.stem.startswith(Path(move["photo"]).stem)  # both are named by their content
        assert Path(suspect["photo"]).read_bytes() == Path(move["photo"]).read_bytes()
    assert Path(third["photo"]).is_file()
    assert 1 == hansang(tmp_path, "review", "photos", "--captured", "captured")["photos"]

    hansang(tmp_path, "relabel", "--undo", "--data", "photos")
    assert 3 == len(list((tmp_path / "photos" / "train").glob("*/*.jpg")))
    assert 3 == hansang(tmp_path, "review", "photos", "--captured", "captured")["photos"]
