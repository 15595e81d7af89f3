"""What every verb shares: one line a record, one sentence an error."""

import subprocess
import sys

import pytest

from tests.paths import ROOT


def python(code: str, **more) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python beside the project's modules."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False, **more,
    )  # fmt: skip


def test_a_table_that_is_piped_has_a_record_a_line():
    """Long paths are not folded, a line break in a name is escaped, markup is text."""
    done = python(
        "from terminal import print_table\n"
        "print_table('T', ['photo', 'n'], [['x' * 300, 1], ['a\\nb', 2], ['[red]y', 3]])"
    )
    assert ["T", "photo\tn", "x" * 300 + "\t1", "a\\nb\t2", "[red]y\t3"] == done.stdout.splitlines()


def test_an_error_of_the_system_is_one_sentence_that_names_the_path():
    """Whatever nobody foresaw: the path and the reason, no traceback."""
    done = python("from terminal import run; run(lambda: open('/nowhere/file'))")
    assert (1, "error: /nowhere/file: No such file or directory\n") == (
        done.returncode, done.stderr
    )  # fmt: skip


def test_a_reader_that_goes_away_is_no_error_to_speak_of():
    """As `head` does."""
    with subprocess.Popen(
        [sys.executable, "-c", "from terminal import run; run(lambda: print('x\\n' * 10**6))"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert "x\n" == process.stdout.readline()
        process.stdout.close()
        assert "" == process.stderr.read()


@pytest.mark.parametrize(
    ("verb", "more"), [("train", []), ("finetune", ["--from", "x"]), ("pipeline", [])]
)
def test_a_wrong_setting_is_refused_before_torch_and_prefect_are_loaded(tmp_path, verb, more):
    """`lr` is `optimizer.lr`: the hint comes at once."""
    done = python(
        "import sys\n"
        f"sys.argv = ['hansang', {verb!r}, {str(tmp_path)!r}, *{more!r}, '--set', 'lr=1']\n"
        "import atexit\n"
        "atexit.register(lambda: print(sorted({'torch', 'prefect'} & set(sys.modules))))\n"
        "import hansang\n"
        "hansang.main()"
    )
    assert "did you mean optimizer.lr?" in done.stderr
    assert "[]" == done.stdout.strip()
