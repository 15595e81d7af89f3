"""A root that is read-only, no place for temporary files, a user without a name: it serves."""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.rig import free_port
from service.client import Classifier
from tests.paths import ROOT

NOWHERE_TO_WRITE = """
mount --make-rprivate /
for place in /dev/shm /tmp /var/tmp/; do mount -t tmpfs -o ro none $place; done
mount -o remount,bind,ro /
exec setpriv --reuid=54321 --regid=54321 --clear-groups --no-new-privs --inh-caps=-all \
  --bounding-set=-all "$@"
"""


def test_a_server_needs_nowhere_to_write(publish, photo):
    """Models on a volume of someone else, read-only; SIGTERM drains as everywhere."""
    if not shutil.which("setpriv") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("mounting and becoming another user needs root")
    # A place of its own: pytest's folders may be closed to other users, and /tmp is covered.
    with tempfile.TemporaryDirectory(dir="/srv") as name:
        Path(name).chmod(0o755)
        publish("food", repository=Path(name) / "models")
        port = free_port()
        with subprocess.Popen(
            ["unshare", "-m", "bash", "-ec", NOWHERE_TO_WRITE, "bash", sys.executable, "-m",
             "hansang", "serve", "--repository", f"{name}/models", "--device", "cpu",
             "--host", "127.0.0.1", "--port", str(port), "--drain-delay", "0"],
            cwd=ROOT, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as server:  # fmt: skip
            try:
                said = [""]
                while "serving food version 1" not in said[-1]:
                    said.append(server.stdout.readline())
                    assert said[-1], said
                with Classifier(f"127.0.0.1:{port}") as classifier:
                    assert "red" == classifier.classify([photo("red")])[0].classes[0].label
                server.send_signal(signal.SIGTERM)
                assert 0 == server.wait(30)
            finally:
                server.kill()
