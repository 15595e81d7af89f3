"""Files that say they are huge, that grow while they are read, or that fail for a moment."""

import errno
import os

import pytest

from photo_folder import reading


def test_a_file_that_says_it_is_huge_is_not_read(tmp_path):
    """A sparse file of 8 GB, as a broken copy leaves it: refused by its size, in no time."""
    photo = tmp_path / "sparse.jpg"
    with photo.open("wb") as file:
        file.truncate(8 << 30)

    with pytest.raises(OSError, match="it has 8589934592 bytes; at most 134217728") as caught:
        reading.content(str(photo))
    assert caught.value.errno == errno.EFBIG
    with photo.open("wb") as file:
        file.truncate(1000)
    assert bytes(1000) == reading.content(str(photo))


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/smaps"])
def test_a_file_that_has_more_than_it_says_is_read_to_the_limit_alone(name):
    """What says that it is empty and never ends, as files of the system do."""
    if not os.access(name, os.R_OK):
        pytest.skip(f"the system has no {name} to read")

    with pytest.raises(OSError, match="more than the 0 bytes that it says; at most 1000") as caught:
        reading.content(name, 1000)
    assert errno.EFBIG == caught.value.errno


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_bounded(tmp_path, monkeypatch):
    """A copy under way: what is there when it is read, and no more than the limit."""
    photo = tmp_path / "1.jpg"
    photo.write_bytes(bytes(200_000))
    assert bytes(200_000) == reading.content(str(photo), 200_000)
    stat = os.fstat

    def then(size: int):
        def told(number: int) -> os.stat_result:
            found = stat(number)
            os.truncate(photo, size)
            return found

        return told

    monkeypatch.setattr(os, "fstat", then(100))
    assert bytes(100) == reading.content(str(photo), 200_000)
    monkeypatch.setattr(os, "fstat", then(150_000))
    assert bytes(150_000) == reading.content(str(photo), 200_000)
    monkeypatch.setattr(os, "fstat", then(1 << 40))
    with pytest.raises(OSError, match="more than the 150000 bytes"):
        reading.content(str(photo), 200_000)


def test_an_error_that_passes_is_waited_for(tmp_path, monkeypatch):
    """A drive that is away for a moment costs no photo; missing rights are not waited for."""
    monkeypatch.setattr(reading, "_PAUSES_S", (0.0, 0.0))
    tries = []

    def read(error: int | None) -> str:
        tries.append(1)
        if error is not None and len(tries) < 3:
            raise OSError(error, os.strerror(error))
        return "read"

    assert "read" == reading.retried(lambda: read(errno.ESTALE))
    tries.clear()
    with pytest.raises(PermissionError):
        reading.retried(lambda: read(errno.EACCES))
    assert [1] == tries
