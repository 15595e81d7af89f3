"""A hundred thousand photos in a bucket: in the memory of a few."""

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("s3fs")
pytestmark = pytest.mark.long

ASK = """
import re, sys
from pathlib import Path
from storage import Bucket
from training.buckets import photos

if sys.argv[1] == "list":
    photos._Copy._fetch = lambda copy: None
photos.fetched(Path("s3://bucket/photos"))
# Not getrusage: its figure begins with that of the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


class Store(BaseHTTPRequestHandler):
    """Answers as S3 does for a bucket of `count` photos, each of its own bytes."""

    count = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        if "list-type" not in asked:
            return self._answer(url.path.encode(), "application/octet-stream", url.path)
        begin = int(asked.get("continuation-token", ["0"])[0])
        end = min(begin + 1000, self.count)
        items = "".join(
            f"<Contents><Key>photos/{n % 42:02}/{n:07}.jpg</Key><Size>29</Size>"
            f'<ETag>"{n}"</ETag><LastModified>2026-11-28T00:00:00.000Z</LastModified></Contents>'
            for n in range(begin, end)
        )
        more = f"<IsTruncated>{'true' if end < self.count else 'false'}</IsTruncated>"
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.count else ""
        page = f"<ListBucketResult>{more}{token}{items}</ListBucketResult>"
        return self._answer(page.encode(), "application/xml", "page")

    def _answer(self, body, kind, tag):
        number = re.search(r"(\d{7})\.jpg", tag)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{int(number[1])}"' if number else '"page"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def store(monkeypatch):
    """Run the store; the environment points to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def asked(work, count, what, monkeypatch):
    """Return the most memory that a process took, in MiB, for so many photos."""
    monkeypatch.setattr(Store, "count", count)
    monkeypatch.setenv("HANSANG_WORK", str(work))
    done = subprocess.run(
        [sys.executable, "-c", ASK, what], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_listing_100_000_photos_takes_the_memory_of_1_000(store, tmp_path, monkeypatch):
    """The listing and the index lie on the disk; a page of names is in memory."""
    few = asked(tmp_path / "few", 1000, "list", monkeypatch)
    many = asked(tmp_path / "many", 100_000, "list", monkeypatch)
    assert many - few < 30, f"{many} MiB for 100,000 photos, {few} MiB for 1,000"


def test_fetching_2_000_photos_takes_the_memory_of_200(store, tmp_path, monkeypatch):
    """All arrive; a second look fetches none and takes no more."""
    few = asked(tmp_path / "few", 200, "fetch", monkeypatch)
    many = asked(tmp_path / "many", 2000, "fetch", monkeypatch)
    assert many - few < 30, f"{many} MiB for 2,000 photos, {few} MiB for 200"
    copies = {path.name: path for path in (tmp_path / "many").rglob("*.jpg")}
    assert len(copies) == 2000
    times = {name: path.stat().st_mtime_ns for name, path in copies.items()}
    asked(tmp_path / "many", 2000, "fetch", monkeypatch)
    assert times == {name: path.stat().st_mtime_ns for name, path in copies.items()}
