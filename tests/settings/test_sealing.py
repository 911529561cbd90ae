"""Sealing: what is sealed opens only where it was sealed for, and no two values are ever sealed with one nonce."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.secret import CannotOpen, Sealer

KEY = b"k" * 32
_KEY_ID = 4
_NONCE = 12


def nonce(sealed: bytes) -> bytes:
    """Return the nonce of a sealed value: it follows the key's id."""
    return sealed[_KEY_ID : _KEY_ID + _NONCE]


def test_no_nonce_twice() -> None:
    """Nonces are drawn many at once, and each is used once, whichever sealer and whichever thread seals."""
    sealers = [Sealer([KEY]), Sealer([KEY])]

    def seal(number: int) -> list[bytes]:
        return [nonce(sealers[number % 2].seal("text", "g")) for _ in range(2_000)]

    with ThreadPoolExecutor(8) as pool:
        used = [each for many in pool.map(seal, range(16)) for each in many]
    assert len(set(used)) == len(used) == 32_000


def test_a_forked_process_draws_its_own() -> None:
    """What was drawn before a fork is not used on both sides of it."""
    sealer = Sealer([KEY])
    sealer.seal("text", "g")  # leaves many that were drawn with it
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"".join(nonce(sealer.seal("text", "g")) for _ in range(200)))
        finally:
            os._exit(0)
    ours = {nonce(sealer.seal("text", "g")) for _ in range(200)}
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        drawn = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {drawn[at : at + _NONCE] for at in range(0, len(drawn), _NONCE)}
    assert len(ours) == len(theirs) == 200
    assert not ours & theirs


@pytest.mark.parametrize(
    "elsewhere", [("h", "access_token"), ("g", "refresh_token"), ("g",), ("g\0access_token", "")], ids=str
)
def test_opens_only_where_it_belongs(elsewhere: tuple[str, ...]) -> None:
    """A value that was copied to another grant or field does not open."""
    sealer = Sealer([KEY])
    sealed = sealer.seal("text", "g", "access_token")
    assert sealer.open(sealed, "g", "access_token") == "text"
    with pytest.raises(CannotOpen):
        sealer.open(sealed, *elsewhere)
