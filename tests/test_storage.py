"""Files that are absent or complete, also where two processes write the same one."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import service.files
import training.files
from storage import replacing


def test_of_two_writers_the_last_wins_and_neither_fails(tmp_path):
    """Each has a temporary file of its own; nothing is left of either."""
    path = tmp_path / "report.html"

    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert "second" == path.read_text()

    assert "first" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [training.files.write_text, service.files.replace])
def test_a_file_that_many_write_is_whole_at_any_moment(write, tmp_path):
    """Eight threads replace one file; a reader never finds a part of it, and no write fails."""
    path = tmp_path / "config.pbtxt"
    texts = [str(number) * 50_000 for number in range(8)]
    write(path, texts[0])

    def replace(text: str) -> None:
        for _ in range(10):
            write(path, text)
            assert path.read_text("utf-8") in texts

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(replace, texts))
    assert [path] == list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    """What was there stays until the new one is complete."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert "old" == path.read_text()
    assert [path] == list(tmp_path.iterdir())
