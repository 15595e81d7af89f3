"""Callers and their bearer tokens, each with a quota, from a file that may change while serving.

    [callers.kiosk]
    sha256 = "<hash of the token, in hex>"
    images_per_s = 50
    admin = false

The file holds only hashes, so reading it does not let anyone call. `hansang token` makes tokens at
random, so a plain hash suffices: there is no password to guess.
"""

import hashlib
import logging
import secrets
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from time import monotonic

from service.errors import InvalidArgumentError, UnauthenticatedError
from service.files import file_state

logger = logging.getLogger(__name__)

_KEYS = {"sha256", "images_per_s", "admin"}


class Caller:
    """One caller. `images_per_s` 0 means no quota.

    Attributes:
        name: As in the file; empty where the server asks for no tokens.
        admin: Whether it may load and unload models.
    """

    def __init__(self, name: str = "", *, images_per_s: float = 0, admin: bool = False) -> None:
        self.name = name
        self.admin = admin
        self.images_per_s = images_per_s
        # A token bucket that holds one second's worth. A call may overdraw it, so that a call of
        # many images succeeds however small the quota is.
        self._left = images_per_s
        self._at_s = monotonic()

    def take(self, images: int) -> float:
        """Take `images` from the quota and return 0, or return how many seconds to wait."""
        if not self.images_per_s:
            return 0.0
        now_s = monotonic()
        self._left += (now_s - self._at_s) * self.images_per_s
        self._left = min(self._left, self.images_per_s)
        self._at_s = now_s
        if self._left <= 0:
            return max(-self._left / self.images_per_s, 0.001)
        self._left -= images
        return 0.0


ANYONE = Caller(admin=True)
"""The caller where the server asks for no tokens."""

caller: ContextVar[Caller] = ContextVar("caller", default=ANYONE)
"""Who made the current call."""


class Tokens:
    """The callers that a file lists; without a file, anyone."""

    def __init__(self, path: Path | None) -> None:
        """Read the file.

        Raises:
            InvalidArgumentError: The file cannot be read, or does not have the format above.
        """
        self._path = path
        self._callers: dict[bytes, Caller] = {}
        self._seen: object = object()
        self.reload()

    def identify(self, metadata: Mapping[str, str]) -> Caller:
        """Return the caller whose token is in a call's metadata.

        Raises:
            UnauthenticatedError: There is no token, or it is not in the file.
        """
        if self._path is None:
            return ANYONE
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("send a token: metadata authorization: Bearer <token>")
        given = hashlib.sha256(token.strip().encode()).digest()
        # The duration tells at most something of a hash, from which no token can be made.
        found = self._callers.get(given)
        if found is None:
            raise UnauthenticatedError("this token is not known; it may have been withdrawn")
        return found

    def reload(self) -> None:
        """Read the file again if it has changed; callers that stay as they are keep their quota.

        Raises:
            InvalidArgumentError: The file cannot be read, or does not have the format above.
        """
        if self._path is None:
            return
        try:
            seen = file_state(self._path)
            if seen == self._seen:
                return
            # Noted first: a broken file is reported once.
            self._seen = seen
            callers = _parse(self._path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"tokens file {self._path}: {error}") from error
        before = {who.name: (key, who) for key, who in self._callers.items()}
        for key, who in callers.items():
            old = before.get(who.name, (b"", who))[1]
            same = (old.images_per_s, old.admin) == (who.images_per_s, who.admin)
            callers[key] = old if same else who
        self._callers = callers
        logger.info("tokens file %s: %d callers", self._path, len(callers))


def _parse(text: str) -> dict[bytes, Caller]:
    parsed = tomllib.loads(text)
    if set(parsed) - {"callers"}:
        raise ValueError("only [callers.<name>] tables are expected")
    callers: dict[bytes, Caller] = {}
    for name, entry in parsed.get("callers", {}).items():
        if not isinstance(entry, dict) or set(entry) - _KEYS or "sha256" not in entry:
            raise ValueError(f"[callers.{name}] must have sha256, and may have images_per_s, admin")
        quota, admin = entry.get("images_per_s", 0), entry.get("admin", False)
        if not isinstance(quota, int | float) or isinstance(quota, bool) or not 0 <= quota < 1e9:
            raise ValueError(f"[callers.{name}] images_per_s: {quota!r} is no rate")
        if not isinstance(admin, bool):
            raise ValueError(f"[callers.{name}] admin: must be true or false")
        key = bytes.fromhex(str(entry["sha256"]))
        if len(key) != hashlib.sha256().digest_size:
            raise ValueError(f"[callers.{name}] sha256: 64 hex digits are expected")
        if key in callers:
            raise ValueError(f"[callers.{name}] has the token of {callers[key].name}")
        callers[key] = Caller(name, images_per_s=float(quota), admin=admin)
    return callers


def new_token() -> tuple[str, str]:
    """Return a random token, and its hash for the file."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


def entry(name: str, sha256: str, *, images_per_s: float = 0, admin: bool = False) -> str:
    """Return a caller's lines for the file.

    Raises:
        InvalidArgumentError: The name has other characters than letters, digits, '_' and '-'.
    """
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise InvalidArgumentError(f"{name!r} is no caller's name: letters, digits, '_' and '-'")
    lines = [f"[callers.{name}]", f'sha256 = "{sha256}"']
    lines += [f"images_per_s = {images_per_s:g}"] * bool(images_per_s)
    lines += ["admin = true"] * admin
    return "\n".join(lines) + "\n"
