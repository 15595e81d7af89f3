"""The whole pipeline on a bucket, and another machine that goes on from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.timeout(900)
def test_pipeline_lives_in_a_bucket_and_another_machine_goes_on(bucket, tmp_path):
    """Cache, run and model are made there; a machine that has none of it reports and releases."""

    def hansang(machine: str, *arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "hansang", *arguments],
            env={**os.environ, "HANSANG_WORK": str(tmp_path / machine)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert 0 == ran.returncode, ran.stderr
        return ran.stdout

    hansang("one", "sample", "drawn", "--classes", "3", "--per-class", "40")
    places = ("--runs-dir", "s3://bucket/runs", "--cache-dir", "s3://bucket/cache")
    size = ("--image-size", "32", "--epochs", "1", "--model", "food")
    there = ("--repository", "s3://bucket/models")
    first = json.loads(
        hansang("one", "pipeline", "drawn", "--run", "first", *size, *places, *there, "--json")
    )
    assert "s3://bucket/models/food/1/model.onnx" == first["path"]
    assert bucket.exists("bucket/models/food/1/SHA256SUMS")
    assert bucket.exists("bucket/runs/first/manifest.json")
    assert bucket.ls("bucket/cache")

    hansang("two", "report", "s3://bucket/runs/first")
    second = json.loads(
        hansang(
            "two", "release", "s3://bucket/runs/first", "--model", "food", *there,
            "--precision", "fp16", "--force", "another machine", "--json",
        )
    )  # fmt: skip
    assert (True, 2) == (second["released"], second["version"])
    assert "s3://bucket/models" == second["repository"]
    page = tmp_path / "two" / "bucket" / "runs" / "first" / "report.html"
    assert page.is_file()
    assert not Path(tmp_path / "s3:").exists(), "a bucket was taken for a folder"
