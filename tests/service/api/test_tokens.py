"""Tokens and quotas without a server: who is recognised, what a quota lets through, which files."""

import hashlib

import pytest

from service.api import auth
from service.api.auth import ANYONE, Caller, Tokens, entry, new_token
from service.errors import InvalidArgumentError, UnauthenticatedError

HASHES = [hashlib.sha256(token).hexdigest() for token in (b"one", b"two")]


@pytest.fixture
def now_s(monkeypatch) -> list[float]:
    """The time, which a test moves."""
    now_s = [1000.0]
    monkeypatch.setattr(auth, "monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
def tokens(tmp_path):
    """`tokens("…")` reads such a file."""

    def read(text: str) -> Tokens:
        (tmp_path / "tokens.toml").write_text(text)
        return Tokens(tmp_path / "tokens.toml")

    return read


def test_a_quota_holds_one_second_and_may_be_overdrawn(now_s):
    """What a call took too much of is waited for; hours of silence save nothing up."""
    caller = Caller("kiosk", images_per_s=10)
    assert 0 == caller.take(10)
    assert 0.001 == caller.take(1)
    now_s[0] += 0.5
    assert 0 == caller.take(20)
    assert 1.5 == pytest.approx(caller.take(1))
    now_s[0] += 1
    assert 0.5 == pytest.approx(caller.take(1))
    now_s[0] += 0.55
    assert 0 == caller.take(1), "half an image is left, and a call may overdraw it"
    now_s[0] += 3600
    assert 0 == caller.take(10)
    assert 0.001 == caller.take(1)


def test_without_a_quota_nobody_waits(now_s):
    """However much is asked for."""
    assert [0.0, 0.0] == [Caller("free").take(10**9) for _ in range(2)]
    assert ("", 0, False) == (Caller().name, Caller().images_per_s, Caller().admin)


def test_a_token_is_recognised_by_its_hash(tokens):
    """In any letters of `bearer`, with blanks around it; each caller with what its entry says."""
    found = tokens(entry("one", HASHES[0], images_per_s=2.5) + entry("two", HASHES[1], admin=True))

    one = found.identify({"authorization": "Bearer one"})
    assert ("one", 2.5, False) == (one.name, one.images_per_s, one.admin)
    two = found.identify({"authorization": "bEARER  two "})
    assert ("two", 0, True) == (two.name, two.images_per_s, two.admin)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "send a token"),
        ({"authorization": ""}, "send a token"),
        ({"authorization": "Bearer"}, "send a token"),
        ({"authorization": "Bearer "}, "send a token"),
        ({"authorization": "Basic one"}, "send a token"),
        ({"authorization": "one"}, "send a token"),
        ({"authorization": "Bearer three"}, "not known; it may have been withdrawn"),
        ({"authorization": f"Bearer {HASHES[0]}"}, "not known"),
        ({"bearer": "one"}, "send a token"),
    ],
)
def test_what_is_no_token_is_refused(tokens, metadata, sentence):
    """With what to send; another scheme's word is no token, nor is a hash from the file."""
    with pytest.raises(UnauthenticatedError, match=sentence):
        tokens(entry("one", HASHES[0])).identify(metadata)


def test_without_a_file_anyone_may_do_anything():
    """As a server at home is run."""
    found = Tokens(None)
    found.reload()
    assert ANYONE is found.identify({})
    assert ANYONE.admin


def test_a_caller_that_stays_as_it_is_keeps_its_quota(tokens, tmp_path):
    """Also under a new token; what an entry says otherwise begins anew."""
    path = tmp_path / "tokens.toml"
    found = tokens(entry("one", HASHES[0], images_per_s=5) + entry("two", HASHES[1]))
    one, two = (found.identify({"authorization": f"Bearer {name}"}) for name in ("one", "two"))

    path.write_text(entry("one", HASHES[1], images_per_s=5) + entry("two", HASHES[0], admin=True))
    found.reload()

    assert one is found.identify({"authorization": "Bearer two"})
    changed = found.identify({"authorization": "Bearer one"})
    assert changed is not two
    assert ("two", True) == (changed.name, changed.admin)
    path.write_text(entry("one", HASHES[1], images_per_s=6))
    found.reload()
    assert one is not found.identify({"authorization": "Bearer two"})


def test_a_broken_file_is_told_once_and_those_who_could_call_still_can(tokens, tmp_path):
    """Until it is mended; a file that is gone is told as well."""
    path = tmp_path / "tokens.toml"
    found = tokens(entry("one", HASHES[0]))
    path.write_text("[callers.one]\n")
    with pytest.raises(InvalidArgumentError, match=r"tokens\.toml: \[callers.one\] must have"):
        found.reload()
    found.reload()
    assert "one" == found.identify({"authorization": "Bearer one"}).name

    path.unlink()
    with pytest.raises(InvalidArgumentError, match=r"tokens\.toml: .*No such file"):
        found.reload()
    path.write_text(entry("two", HASHES[1]))
    found.reload()
    assert "two" == found.identify({"authorization": "Bearer two"}).name


def test_a_file_that_did_not_change_is_not_read_again(tokens, monkeypatch):
    """It is looked at every second."""
    found = tokens(entry("one", HASHES[0]))
    monkeypatch.setattr(auth, "_parse", None)
    found.reload()
    assert "one" == found.identify({"authorization": "Bearer one"}).name


OF_A = f"[callers.a]\nsha256 = '{HASHES[0]}'\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[callers]\na = 1\n", r"\[callers.a\] must have sha256, and may have"),
        ("[callers.a]\nadmin = true\n", r"\[callers.a\] must have sha256"),
        (f"{OF_A}quota = 5\n", r"\[callers.a\] must have sha256"),
        (f"{OF_A}images_per_s = true\n", r"\[callers.a\] images_per_s: True is no rate"),
        (f"{OF_A}images_per_s = '5'\n", r"images_per_s: '5' is no rate"),
        (f"{OF_A}images_per_s = -0.1\n", r"images_per_s: -0.1 is no rate"),
        (f"{OF_A}images_per_s = 1e9\n", r"is no rate"),
        (f"{OF_A}images_per_s = nan\n", r"is no rate"),
        (f"{OF_A}admin = 1\n", r"\[callers.a\] admin: must be true or false"),
        ("[callers.a]\nsha256 = 'xyz'\n", "non-hexadecimal"),
        ("[callers.a]\nsha256 = '" + "0" * 62 + "'\n", r"\[callers.a\] sha256: 64 hex digits"),
        (OF_A + OF_A.replace("s.a", "s.b"), r"\[callers.b\] has the token of a"),
        (f"{OF_A}[more]\n", r"only \[callers.<name>\] tables"),
    ],
)
def test_each_mistake_in_a_file_is_named(tokens, text, sentence):
    """With the caller that it is about."""
    with pytest.raises(InvalidArgumentError, match=sentence):
        tokens(text)


@pytest.mark.parametrize("text", ["", "[callers]\n", f"{OF_A}images_per_s = 0\nadmin = false\n",
                                  f"{OF_A}images_per_s = 999999999\n"])  # fmt: skip
def test_a_file_may_list_nobody_and_say_what_goes_without_saying(tokens, text):
    """Then nobody is let in."""
    with pytest.raises(UnauthenticatedError):
        tokens(text).identify({"authorization": "Bearer two"})


def test_an_entry_says_no_more_than_it_must():
    """Quota and right are there if they were given."""
    assert '[callers.kiosk-2_b]\nsha256 = "ab"\n' == entry("kiosk-2_b", "ab")
    assert entry("a", "ab", images_per_s=2.5, admin=True).endswith(
        'sha256 = "ab"\nimages_per_s = 2.5\nadmin = true\n'
    )
    for name in ("", "a b", "a.b", "키오스크", "-_", "a]"):
        with pytest.raises(InvalidArgumentError, match="is no caller's name"):
            entry(name, "ab")


def test_tokens_are_long_and_drawn_anew():
    """256 random bits each, and the hash that the file takes."""
    drawn = [new_token() for _ in range(2)]
    assert drawn[0] != drawn[1]
    for token, sha256 in drawn:
        assert len(token) >= 43
        assert hashlib.sha256(token.encode()).hexdigest() == sha256
