"""What every verb shares: one line a record, one sentence an error."""

import re
import shlex
import subprocess
import sys
import tempfile

import pytest
import typer

import terminal
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


def test_no_place_for_temporary_files_is_one_sentence(monkeypatch, tmp_path, capsys):
    """A read-only root without /tmp: torch and matplotlib need one to be imported."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])

    with pytest.raises(SystemExit) as ended:
        terminal.run(tempfile.mkdtemp)

    assert 1 == ended.value.code
    said = capsys.readouterr().err
    assert re.fullmatch("error: No usable temporary directory .*gone.*TMPDIR name it\n", said)


def test_a_reader_that_goes_away_is_no_error_to_speak_of():
    """As `head` does."""
    with subprocess.Popen(
        [sys.executable, "-c", "from terminal import run; run(lambda: print('x\\n' * 10**6))"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert "x\n" == process.stdout.readline()
        process.stdout.close()
        assert "" == process.stderr.read()


def test_a_process_that_ends_looks_for_no_garbage():
    """With torch imported, that search takes a second."""
    code = (
        "from terminal import run\n"
        "class Found:\n"
        "    def __init__(self): self.itself = self\n"
        "    def __del__(self): print('found')\n"
    )
    assert "found\n" == python(f"{code}Found()").stdout
    assert "" == python(f"{code}run(Found)").stdout


def in_a_shell(code: str, rest: str) -> tuple[int, str, str]:
    """Run a piece of Python with redirections; return its exit code and what it said."""
    line = f"{shlex.join([sys.executable, '-c', code])} {rest}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian", "photos"], "Error: no verb 'trian'; did you mean train?"),
        (
            ["train", "photos", "--run", f"{'x' * 200}/.."],
            f"'{'x' * 200}/..' is no name of a folder",
        ),
    ],
)
def test_a_mistake_in_a_pipe_is_one_line(words, told):
    """No box that folds it at 80 columns; a verb that is written otherwise is named."""
    code, out, error = in_a_shell(
        "import sys; sys.argv[0] = 'hansang'; import hansang; hansang.main()", shlex.join(words)
    )

    assert (2, "") == (code, out)
    assert told in error.splitlines()[-1]


@pytest.mark.parametrize("buffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_sentence(monkeypatch, buffered):
    """A full disk, as it is written or when the program ends."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    said = "error: cannot write the output: No space left on device\n"
    code = "from terminal import run; run(lambda: print(1))"

    assert (1, "", said) == in_a_shell(code, "> /dev/full")


@pytest.mark.parametrize(
    ("closed", "told"),
    [("1>&-", ("", "said\n")), ("2>&-", ("1\n", "")), ("1>&- 2>&-", ("", ""))],
)
def test_a_stream_that_is_closed_costs_nothing(closed, told):
    """As in a service without a terminal: the other stream has what is its own, and no more."""
    code = "from terminal import run, say; run(lambda: (print(1), say('said')))"

    assert (0, *told) == in_a_shell(code, closed)


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


@pytest.mark.parametrize("name", [".", "..", " ", "../other", "a/./b", "a\nb", "\x1b[2J"])
def test_a_name_that_is_no_folder_in_runs_is_refused(name):
    """`.` is RUNS itself, and a line break makes two lines of every hint."""
    from training.cli.options import named

    with pytest.raises(typer.BadParameter, match=r"no name of a folder|cannot be shown"):
        named(name)


def test_other_names_are_kept():
    """Signs of a shell, spaces inside, any script, a folder in a folder; nothing is a new one."""
    from training.cli.options import named

    for name in ("first", "한상 1", "$x$", "-x", "night/1", "..a", "", None):
        assert name == named(name)
