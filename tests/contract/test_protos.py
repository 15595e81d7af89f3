"""The protos alone are enough for another language, and a release's clients are not broken."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from grpc_tools import protoc

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
FILES = ("hansang/v1/classifier.proto", "inference/inference.proto")


def compile_protos(folder: Path, out: Path) -> Path:
    """Compile with protoc, which sees nothing but the folder."""
    code = protoc.main(
        ["protoc", f"-I{folder}", f"-I{Path(protoc.__file__).parent / '_proto'}",
         "--include_imports", f"--descriptor_set_out={out}", *FILES]
    )  # fmt: skip
    assert 0 == code
    return out


def compare(present: Path) -> subprocess.CompletedProcess:
    """Run the check of `make check`."""
    return subprocess.run(
        [sys.executable, PROTO / "breaking.py", PROTO / "released.binpb", present],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def changed(tmp_path):
    """Give a function that changes a line of the classifier's proto, and compares."""

    def change(old: str, new: str) -> subprocess.CompletedProcess:
        for file in [*FILES, "google/rpc/status.proto"]:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text((PROTO / file).read_text())
        target = tmp_path / FILES[0]
        text, count = re.subn(old, new, target.read_text())
        assert 1 == count
        target.write_text(text)
        return compare(compile_protos(tmp_path, tmp_path / "now.binpb"))

    return change


def test_the_folder_compiles_by_itself_and_breaks_nobody(tmp_path):
    """Protoc needs nothing else, and the last release's clients go on."""
    ran = compare(compile_protos(PROTO, tmp_path / "now.binpb"))

    assert (0, "") == (ran.returncode, ran.stderr)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"Priority priority = 5;", "Priority priority = 5; string note = 6;"),
        (r"PRIORITY_BULK = 2;", "PRIORITY_BULK = 2; PRIORITY_NIGHT = 3;"),
        (r"rpc GetModel\(GetModelRequest\)", "rpc Also(Model) returns (Model); \\g<0>"),
        (r"string run_id = 8;", 'reserved 8; reserved "run_id";'),
    ],
)
def test_what_may_change(changed, old, new):
    """Additions pass, and so does a field that goes in order."""
    assert (0, "") == ((ran := changed(old, new)).returncode, ran.stderr)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (r"int32 top_k = 2;", "int64 top_k = 2;", "top_k = 2 was optional int32"),
        (r"int32 top_k = 2;", "int32 top_k = 7;", "top_k = 2 is gone; reserve"),
        (r"int32 top_k = 2;", "int32 topmost = 2;", "is optional int32 topmost"),
        (r"string run_id = 8;", "", "run_id = 8 is gone; reserve its number and its name"),
        (r"string label = 1;", "repeated string label = 1;", "is repeated string label"),
        (r"optional double val_top1", "double val_top1", "in oneof _val_top1"),
        (r"PRIORITY_BULK = 2;", "PRIORITY_BULK = 3;", "PRIORITY_BULK = 2 is gone"),
        (r"rpc GetModel\(.*;", "", "method hansang.v1.Classifier/GetModel is gone"),
        (r"rpc ClassifyStream\(stream", "rpc ClassifyStream(", "ClassifyStream is another"),
        (r"package hansang.v1;", "package hansang.v2;", "package hansang.v1 is gone"),
    ],
)
def test_what_breaks_clients_is_refused(changed, old, new, says):
    """Each change that an old client would notice has a sentence, and exit code 1."""
    ran = changed(old, new)

    assert 1 == ran.returncode
    assert says in ran.stderr
