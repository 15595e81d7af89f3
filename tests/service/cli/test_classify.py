"""The verb classify, as a process of its own."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.cli.commands import ENVIRONMENT, hansang


async def test_photos_are_shown_in_a_table(classify, photos):
    """Files and folders: each photo with its name and its classes, and exit code 0."""
    done = await classify(photos)
    assert 0 == done.returncode, done.stderr
    assert "food version 1" in done.stdout
    assert re.search(r"\[red\] one\.jpg\W+red \d", done.stdout)
    assert re.search(r"푸른\.PNG\W+blue \d", done.stdout)
    assert "hidden" not in done.stdout
    assert "notes" not in done.stdout


async def test_json_is_for_scripts(classify, photos):
    """`--json` prints nothing else on stdout."""
    done = await classify(photos, "--json", "--top-k", 2)
    answers = json.loads(done.stdout)
    assert 0 == done.returncode
    assert ["red", "blue"] == [each["classes"][0]["label"] for each in answers]
    for answer in answers:
        keys = {"photo", "error", "model", "model_version", "below_threshold", "classes"}
        assert keys == set(answer)
        assert (None, "food", 1) == (answer["error"], answer["model"], answer["model_version"])
        assert 2 == len(answer["classes"])


async def test_bad_photo_spares_the_others(classify, photos):
    """It is listed with its reason, the others are answered, and the exit code is 1."""
    bad = photos / "bad.jpg"
    bad.write_bytes(b"junk")
    done = await classify(bad, photos / "[red] one.jpg")
    assert 1 == done.returncode
    assert "a text file" in done.stdout
    assert re.search(r"one\.jpg\W+red", done.stdout)
    assert "error: 1 of 2 photos" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
async def test_unreadable_file_spares_the_others(classify, photos):
    """A file that may not be read is an error of its own."""
    (photos / "[red] one.jpg").chmod(0)
    done = await classify(photos)
    assert 1 == done.returncode
    assert "cannot be read: Permission denied" in done.stdout
    assert "blue" in done.stdout


def test_file_that_went_away_is_its_own_error(photos):
    """Between the listing and the reading a file may go; the others keep their places."""
    from service.cli.classify import _read

    here, gone = photos / "[red] one.jpg", photos / "gone.jpg"
    unread, image = _read([gone, here])
    assert here.read_bytes() == image
    assert "cannot be read: No such file" in unread.error


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_results_go_into_a_file_photo_by_photo(classify, photos, tmp_path, kind):
    """CSV or JSON lines; a second run asks only for what is new, and mends a torn line."""
    out = tmp_path / f"results.{kind}"
    done = await classify(photos, "--out", out, "--top-k", 2)
    assert (0, "2 of 2 photos are classified") == (done.returncode, done.stdout[:28]), done.stderr
    lines = out.read_text("utf-8").splitlines()
    if kind == "csv":
        columns = "label_1,probability_1,label_2,probability_2"
        assert f"photo,model,model_version,below_threshold,{columns}" == lines[0]
        row = r'"?.*\[red\] one\.jpg"?,food,1,false,red,0\.\d+,\w+,0\.\d+'
        assert re.fullmatch(row, lines[1])
    else:
        assert ["red", "blue"] == [json.loads(line)["classes"][0]["label"] for line in lines]

    whole = out.read_bytes()
    out.write_bytes(whole[:-7])
    (photos / "zz.jpg").write_bytes((photos / "[red] one.jpg").read_bytes())
    (photos / "[red] one.jpg").write_bytes(b"would fail, if it were asked again")
    done = await classify(photos, "--out", out, "--top-k", 2, "--json")
    assert 0 == done.returncode, done.stderr
    assert {"photos": 3, "classified": 3, "failed": 0, "out": str(out)} == json.loads(done.stdout)
    assert out.read_bytes().startswith(whole)
    assert len(lines) + 1 == len(out.read_text("utf-8").splitlines())


async def test_failed_photos_are_listed_and_tried_again(classify, photos, photo, tmp_path):
    """They are not in the results; the list has their reasons, and goes when they are mended."""
    out = tmp_path / "results.csv"
    bad = photos / "bad.jpg"
    bad.write_bytes(b"junk")
    done = await classify(photos, "--out", out)
    assert 1 == done.returncode
    assert "error: 1 of 3 photos" in done.stderr
    failed = Path(f"{out}.failed").read_text()
    assert failed.startswith(f"{bad}\tthis is a text file, which is not read here")
    assert 1 == failed.count("\n")
    assert "bad.jpg" not in out.read_text()
    bad.write_bytes(photo("green"))
    done = await classify(photos, "--out", out)
    assert 0 == done.returncode
    assert "bad.jpg,food,1,false,green" in out.read_text()
    assert not Path(f"{out}.failed").exists()


async def test_a_kill_in_the_middle_costs_nothing(publish, serve, photo, tmp_path):
    """SIGKILL while hundreds are under way; the same command ends with each of them once."""
    publish("food", loops=2_000)
    server = await serve(max_batch=1)
    folder, out = tmp_path / "many", tmp_path / "results.jsonl"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.jpg").write_bytes(photo(["red", "green", "blue"][number % 3]))
    command = [
        *(sys.executable, "-m", "hansang", "classify", str(folder), "--out", str(out)),
        *("--address", f"127.0.0.1:{server.port}", "--top-k", "1"),
    ]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as first:
        while not out.exists() or out.read_bytes().count(b"\n") < 20:
            await asyncio.sleep(0.01)
        first.kill()
    assert 20 <= out.read_bytes().count(b"\n") < 400
    done = await asyncio.to_thread(subprocess.run, command, env=ENVIRONMENT, capture_output=True)
    assert 0 == done.returncode, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [f"{number:03}.jpg" for number in range(400)] == [
        Path(each["photo"]).name for each in found
    ]
    assert ["red", "green", "blue"] == [each["classes"][0]["label"] for each in found[:3]]


@pytest.mark.parametrize(
    ("content", "out", "sentence"),
    [
        (None, "results.txt", "name it .csv or .jsonl"),
        ("photo,other\n", "results.csv", "other columns"),
        ("junk\n", "results.jsonl", "holds no results"),
    ],
)
async def test_a_file_that_cannot_be_gone_on_with_is_left_alone(
    classify, photos, tmp_path, content, out, sentence
):
    """Another format or other columns: an error that says so, and nothing is overwritten."""
    path = tmp_path / out
    if content is not None:
        path.write_text(content)
    done = await classify(photos, "--out", path)
    assert 1 == done.returncode
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert content == (path.read_text() if path.exists() else None)


def test_nothing_to_classify_is_told(tmp_path):
    """A folder without photos and a path that is not there are named."""
    for path, reason in ((tmp_path, "no photos"), (tmp_path / "soup.jpg", "soup.jpg")):
        done = hansang("classify", path)
        assert 1 == done.returncode
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_no_service_is_told(photos):
    """The error names the address and the command that starts a service."""
    done = hansang("classify", photos, "--address", "127.0.0.1:1")
    assert 1 == done.returncode
    assert "error: 127.0.0.1:1: no service answers; start one with: hansang serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["csv", "jsonl", "table"])
async def test_names_that_are_not_utf8_are_answered_and_escaped(
    classify, photos, photo, tmp_path, kind
):
    """As a zip from Windows leaves them: no answer is lost, and none is asked for twice."""
    odd = os.fsencode(photos) + b"/\xb1\xe8.jpg"
    bad = os.fsencode(photos) + b"/bad\xb1.jpg"
    for name, content in ((odd, photo("green")), (bad, b"junk")):
        Path(os.fsdecode(name)).write_bytes(content)
    out = tmp_path / f"results.{kind}"
    given = [] if kind == "table" else ["--out", out]

    done = await classify(photos, *given)
    again = await classify(photos, *given)

    assert (1, 1) == (done.returncode, again.returncode)
    assert "Traceback" not in done.stderr + again.stderr
    assert "1 of 4 photos could not be classified" in done.stderr
    if kind == "table":
        assert r"\xb1\xe8.jpg" in done.stdout
        return
    lines = out.read_text("utf-8").splitlines()
    assert 3 + (kind == "csv") == len(lines)
    assert r"bad\xb1.jpg" in out.with_name(f"{out.name}.failed").read_text("utf-8")
    if kind == "jsonl":
        assert odd in {os.fsencode(json.loads(line)["photo"]) for line in lines}


async def test_what_is_left_out_is_said_before_the_answers(classify, photos):
    """The same two lines as in training: by suffix and kind, with an example."""
    (photos / "a.heic").write_bytes(b"x")
    (photos / "Thumbs.db").write_bytes(b"x")
    (photos / "gone.jpg").symlink_to("nowhere")
    done = await classify(photos)
    assert 0 == done.returncode
    assert "1 broken link (gone.jpg)" in done.stderr
    assert "1 .txt (notes.txt)" in done.stderr
    assert "Thumbs.db" in done.stderr


async def test_a_table_names_the_photos(classify, photos, tmp_path):
    """A CSV of paths stands in for a folder; labels are not needed."""
    table = tmp_path / "some.csv"
    table.write_text("path\nphotos/[red] one.jpg\n")
    done = await classify(table, "--json")
    (answer,) = json.loads(done.stdout)
    assert "red" == answer["classes"][0]["label"]
