"""Small or unwritable places of the system: `/tmp`, `/dev/shm`, a user without a name."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from storage import StorageError, temporary_folder
from tests.paths import ROOT


def test_a_temporary_folder_says_what_it_needs(tmp_path, monkeypatch):
    """More than there is left is refused before the work, with the size and the way out."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    words = r"the copy needs \d+ MiB in .*, which has \d+ MiB left"
    with pytest.raises(StorageError, match=words), temporary_folder("the copy", 2**60):
        pytest.fail("it has no room")
    with temporary_folder("the copy", 1) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_nowhere_to_write_is_a_sentence(monkeypatch):
    """The system's own words, what was wanted, and TMPDIR."""

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)

    words = "needs 3 MiB .*No usable temporary .*TMPDIR"
    with pytest.raises(StorageError, match=words), temporary_folder("the copy", 3 * 2**20):
        pytest.fail("it has no place")


def isolated(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("mounting a small file system needs root")
    return subprocess.run(
        ["unshare", "-m", "bash", "-ec", script], cwd=ROOT, capture_output=True, text=True
    )


def test_a_temporary_place_that_fills_up_is_a_sentence():
    """A disk that is full half way names the place as well."""
    code = (
        "from storage import temporary_folder\n"
        "with temporary_folder('the copy') as folder:\n"
        "    (folder / 'x').write_bytes(bytes(2**21))\n"
    )

    done = isolated(
        f'mount -t tmpfs -o size=1m none /mnt && TMPDIR=/mnt "{sys.executable}" -c "{code}"'
    )

    assert "StorageError: the copy has no room in /mnt: No space left on device" in done.stderr


def test_photos_are_decoded_where_processes_cannot_share_locks(dishes):
    """A container without room in /dev/shm: a line says so, and threads decode."""
    # Not in pytest's folder, which may lie in /dev/shm.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        shutil.copytree(dishes, Path(home) / "photos")
        code = (
            "from pathlib import Path\n"
            "from training.data import decoding\n"
            "from training.data.prepare import prepare\n"
            "decoding._FEW = 1\n"
            f"home = Path('{home}')\n"
            "print(len(prepare(home / 'photos', 32, cache_root=home / 'cache').labels))\n"
        )

        done = isolated(
            "mount -t tmpfs -o size=4k,nr_inodes=1 none /dev/shm &&"
            f' TMPDIR="{home}" "{sys.executable}" -c "{code}"'
        )

    assert "3" == done.stdout.strip(), done.stderr
    assert "in /dev/shm (No space left on device); threads decode" in " ".join(done.stderr.split())


def test_a_user_without_a_name_trains(dishes):
    """A user ID that no passwd file knows, and no home: a run and its report."""
    if shutil.which("setpriv") is None or os.getuid() != 0:
        pytest.skip("becoming another user needs root")
    # With what is compiled already: its imports take 7 s less of CPU.
    passed_on = ("PATH", "OMP_NUM_THREADS", "PYTHONPYCACHEPREFIX")
    environment = {name: os.environ[name] for name in passed_on if name in os.environ}
    # Not in pytest's folder or TMPDIR, which may be closed to other users.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o777)
        shutil.copytree(dishes, home / "photos")

        done = subprocess.run(
            ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-m",
             "training", str(home / "photos"), "--run", "r", "--epochs", "1", "--image-size", "32",
             "--threads", "1", "--set", "batch_size=16", "--runs-dir", str(home / "runs"),
             "--cache-dir", str(home / "cache")],
            cwd=ROOT, capture_output=True, text=True,
            env=environment,
        )  # fmt: skip

        assert 0 == done.returncode, done.stderr
        assert (home / "runs" / "r" / "report.html").is_file()
        assert "matplotlib" not in done.stderr.lower()
