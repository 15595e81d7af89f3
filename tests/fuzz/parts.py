"""Bytes taken apart into numbers and shorter bytes, so that one input can stand for many things."""


class Parts:
    """What is left of some bytes; where nothing is left, numbers are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Return how many bytes are left."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next bytes, or as many as there are."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def number(self, num_bytes: int) -> int:
        """Return the next bytes as a number, little-endian."""
        return int.from_bytes(self.take(num_bytes), "little")

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.left)
