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
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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


class Tampered(CannotOpen):
    """A sealed value is genuine, but does not belong where it stands."""


Purpose = Literal["grant", "flow", "session", "cursor", "journal", "meta"]
"""What a value is sealed for. Each has a key of its own, which is derived from a key of the file."""
_MOVABLE = frozenset({"grant", "flow"})
"""What stands in Redis and must not be accepted in the old form once a store has none of it any more."""


class _Key(NamedTuple):
    aead: AESGCM
    main: bytes
    """Id of the key in the file."""
    purpose: Purpose | None
    """None: the key of the file itself, with which the plain form is sealed."""


class Sealer:
    """Seals with the first key and opens with every key, by AES-256-GCM.

    A sealed value is the key's id (4 bytes), a nonce (12), ciphertext and tag. The context (for a grant: its id and
    the field's name) is authenticated with it, so a value copied to another grant or field does not open.

    There are two forms. In the plain form the key of the file itself seals. In the bound form a key for each purpose
    does, derived by HKDF (RFC 5869), and facts may be sealed with the text, such as the provider that a token is for.
    Both are opened. Values are sealed in the bound form once `binds` is set, which needs that no broker of a version
    without it works on the same store.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys: dict[bytes, _Key] = {}
        self._derived: dict[Purpose, bytes] = {}
        self.binds = False
        """Whether to seal in the bound form. Opening a bound value sets it: somebody has begun."""
        self.requires_bound = False
        """Whether the store holds bound values alone, so that a plain one was brought back by somebody."""
        self.seals = 0
        """How many values were sealed so far: random nonces suffice for 2^32 of one key (NIST SP 800-38D, 8.3)."""
        for key in keys:
            main = _key_id(key)
            if not self._keys:
                self._first = main
            self._keys[main] = _Key(AESGCM(key), main, None)
            for purpose in get_args(Purpose):
                derived = HKDF(hashes.SHA256(), 32, salt=None, info=f"token-broker {purpose}".encode()).derive(key)
                self._keys[_key_id(derived)] = _Key(AESGCM(derived), main, purpose)
                self._derived.setdefault(purpose, _key_id(derived))
        if not self._keys:
            msg = "a Sealer needs at least one key"
            raise ValueError(msg)

    def seal(self, plain: str, *context: str, purpose: Purpose = "grant", facts: str = "") -> bytes:
        """Seal *plain* for this *context*.

        Args:
            plain: The text.
            context: Where it belongs.
            purpose: Which of the derived keys seals it.
            facts: One line that is sealed with it, in the bound form.
        """
        if self.binds:
            return self.seal_bound(plain, *context, purpose=purpose, facts=facts)
        return self._seal(self._first, plain, context)

    def seal_bound(self, plain: str, *context: str, purpose: Purpose = "grant", facts: str = "") -> bytes:
        """Seal *plain* likewise, in the bound form."""
        return self._seal(self._derived[purpose], f"{facts}\n{plain}", context)

    def _seal(self, key_id: bytes, plain: str, context: tuple[str, ...]) -> bytes:
        nonce = _nonce()
        self.seals += 1
        data = plain.encode("utf-8", "surrogatepass")
        return key_id + nonce + self._keys[key_id].aead.encrypt(nonce, data, "\0".join(context).encode())

    @property
    def first(self) -> bytes:
        """Id of the first key of the file."""
        return self._first

    def is_current(self, sealed: bytes) -> bool:
        """Whether *sealed* was sealed with the first key, and in the bound form where that is to be used."""
        key = self._keys.get(sealed[:_KEY_ID_BYTES])
        return key is not None and key.main == self._first and (key.purpose is not None or not self.binds)

    def reseal(self, sealed: bytes, *context: str, purpose: Purpose = "grant") -> bytes:
        """Return *sealed* as the first key seals it; facts that are sealed with it are kept.

        Raises:
            CannotOpen: no key opens it, in this *context*.
        """
        if self.is_current(sealed):
            return sealed
        plain, facts = self.open_with_facts(sealed, *context, purpose=purpose)
        return self.seal(plain, *context, purpose=purpose, facts=facts or "")

    def open(self, sealed: bytes, *context: str, purpose: Purpose = "grant") -> str:
        """Return the text that `seal` was given, with the same *context* and *purpose*.

        Raises:
            CannotOpen: no key opens it, it belongs to another context, or it was altered.
            Tampered: it is in the plain form, and the store has no such values any more.
        """
        return self.open_with_facts(sealed, *context, purpose=purpose)[0]

    def open_with_facts(
        self, sealed: bytes, *context: str, purpose: Purpose = "grant", trusted: bool = False
    ) -> tuple[str, str | None]:
        """Return the text, likewise, and the facts sealed with it; None for a value in the plain form.

        Args:
            sealed: The value.
            context: Where it belongs.
            purpose: What it was sealed for.
            trusted: It does not come from Redis: the plain form is accepted always.

        Raises:
            CannotOpen: no key opens it, it belongs to another context, or it was altered.
            Tampered: it is in the plain form, and the store has no such values any more.
        """
        key = self._keys.get(sealed[:_KEY_ID_BYTES])
        if key is None:
            raise CannotOpen("sealed with a key that is not in the key file")
        nonce = sealed[_KEY_ID_BYTES : _KEY_ID_BYTES + _NONCE_BYTES]
        try:
            data = key.aead.decrypt(nonce, sealed[_KEY_ID_BYTES + _NONCE_BYTES :], "\0".join(context).encode())
        except (InvalidTag, ValueError):
            raise CannotOpen("sealed for something else, or altered") from None
        text = data.decode("utf-8", "surrogatepass")
        if key.purpose is None:
            if self.requires_bound and purpose in _MOVABLE and not trusted:
                raise Tampered("it is of a time before this store was resealed, and was put there since")
            return text, None
        if key.purpose != purpose:
            raise CannotOpen("sealed for something else")
        self.binds = True
        facts, _, plain = text.partition("\n")
        return plain, facts


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES]


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
