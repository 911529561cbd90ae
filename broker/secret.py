"""Keep secrets out of sight in memory, and seal them at rest.

Owns `Secret` (tokens in memory) and `Sealer` (tokens in Redis and in files). Knows nothing of grants but their ids,
and of keys only their text, not where they come from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_PREFIX = "tbk_"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_NONCES_AT_ONCE = 256
"""How many nonces one system call draws. One call for each takes 1.05 times the CPU of a refresh
(`python -m tests.benchmarks.tricks nonces`)."""


class Secret:
    """A text that redacts itself: `str`, `repr` and `format` hide it, JSON and pickle refuse it.

    Only `reveal()` gives the text, so every place that uses one can be found by that word.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself: only for the wire and for sealing."""
        return self._text

    def fingerprint(self) -> str:
        """Return a hash (32 hex digits) that shows whether two hold the same text, without showing the text."""
        return hashlib.sha256(b"token-broker fingerprint\0" + self._text.encode("utf-8", "surrogatepass")).hexdigest()[
            :32
        ]

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(
            self._text.encode("utf-8", "surrogatepass"), other._text.encode("utf-8", "surrogatepass")
        )

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not pickled"
        raise TypeError(msg)


class CannotOpen(Exception):
    """None of the keys opens a sealed value: it was sealed with another key, or altered."""


class Sealer:
    """Seals with the first key and opens with every key, by AES-256-GCM.

    A sealed value is the key's id (4 bytes), a nonce (12), ciphertext and tag. The context (for a grant: its id and
    the field's name) is authenticated with it, so a value copied to another grant or field does not open.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = {hashlib.sha256(key).digest()[:_KEY_ID_BYTES]: AESGCM(key) for key in keys}
        if not self._keys:
            msg = "a Sealer needs at least one key"
            raise ValueError(msg)
        self._first = next(iter(self._keys))
        self._encrypt = self._keys[self._first].encrypt

    def seal(self, plain: str, *context: str) -> bytes:
        """Seal *plain* for this *context*."""
        nonce = _nonce()
        data = plain.encode("utf-8", "surrogatepass")
        return self._first + nonce + self._encrypt(nonce, data, "\0".join(context).encode())

    @property
    def first(self) -> bytes:
        """Id of the key that seals: what its sealed values begin with."""
        return self._first

    def is_current(self, sealed: bytes) -> bool:
        """Whether *sealed* was sealed with the first key."""
        return sealed[:_KEY_ID_BYTES] == self._first

    def reseal(self, sealed: bytes, *context: str) -> bytes:
        """Return *sealed* as the first key seals it.

        Raises:
            CannotOpen: no key opens it, in this *context*.
        """
        return sealed if self.is_current(sealed) else self.seal(self.open(sealed, *context), *context)

    def open(self, sealed: bytes, *context: str) -> str:
        """Return the text that `seal` was given, with the same *context*.

        Raises:
            CannotOpen: no key opens it, it belongs to another context, or it was altered.
        """
        key = self._keys.get(sealed[:_KEY_ID_BYTES])
        if key is None:
            raise CannotOpen("sealed with a key that is not in the key file")
        nonce = sealed[_KEY_ID_BYTES : _KEY_ID_BYTES + _NONCE_BYTES]
        try:
            data = key.decrypt(nonce, sealed[_KEY_ID_BYTES + _NONCE_BYTES :], "\0".join(context).encode())
        except (InvalidTag, ValueError):
            raise CannotOpen("sealed for something else, or altered") from None
        return data.decode("utf-8", "surrogatepass")


_nonces: deque[bytes] = deque()
os.register_at_fork(after_in_child=_nonces.clear)  # two processes must never seal with the same nonce


def _nonce() -> bytes:
    """Return random bytes that nothing else is sealed with. Any thread may call it: a deque gives each away once."""
    while True:
        try:
            return _nonces.pop()
        except IndexError:
            drawn = os.urandom(_NONCES_AT_ONCE * _NONCE_BYTES)
            _nonces.extend(drawn[at : at + _NONCE_BYTES] for at in range(0, len(drawn), _NONCE_BYTES))


def new_sealing_key() -> str:
    """Return a new sealing key as its line in the key file: `tbk_` and 256 random bits, base64url."""
    return KEY_PREFIX + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


def parse_sealing_keys(text: str) -> list[bytes]:
    """Return the keys of a key file, first the one that seals. Blank lines and `#` comments are skipped.

    Raises:
        ValueError: a line is no key. It names the line's number, never its content.
    """
    keys = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        body = line.removeprefix(KEY_PREFIX)
        try:
            key = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not line.startswith(KEY_PREFIX) or len(key) != 32:
            msg = f"line {number} is not a sealing key (`token-broker keys new` makes one)"
            raise ValueError(msg)
        keys.append(key)
    return keys


def new_caller_key() -> str:
    """Return a new caller key: 256 random bits in `[A-Za-z0-9_-]`, so that no client's encoding alters it."""
    return secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """Return a caller key as it is kept: SHA-256, hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
