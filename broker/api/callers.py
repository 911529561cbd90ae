"""Who asks, and what they may: keys by digest, rights by patterns of grant ids."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aiohttp import hdrs
from multidict import istr

from broker.errors import InvalidSettings, NotAllowed, UnknownKey
from broker.process.data_dir import secret_file, write_private
from broker.secret import key_digest, new_caller_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from broker.settings import Caller as CallerSettings

BROKER_KEY = istr("X-Broker-Key")
Right = Literal["read", "refresh", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller and its patterns, one regular expression a right."""

    name: str
    patterns: Mapping[Right, re.Pattern[str]]
    administers_all: bool = False
    """Whether one of its admin patterns is `*`: what is wider than any grant, such as a provider, is its to act on."""

    def may(self, right: Right, grant_id: str) -> bool:
        """Whether it has *right* on *grant_id*."""
        return self.patterns[right].fullmatch(grant_id) is not None

    def require(self, right: Right, grant_id: str) -> None:
        """Raise `NotAllowed` unless it has *right* on *grant_id*, which may or may not exist."""
        if not self.may(right, grant_id):
            raise NotAllowed(f"caller {self.name!r} has no {right} right on this grant id: see callers in the settings")

    @property
    def administers(self) -> bool:
        """Whether it is admin of anything at all."""
        return self.patterns["admin"].pattern != _NOTHING


_NOTHING = r"(?!)"


def _pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(p) for p in patterns) or _NOTHING)


class Callers:
    """All callers, by the SHA-256 of their key."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._by_digest = callers
        self.understood: dict[bytes, tuple[Caller, str]] = {}
        """Caller and grant of requests that were understood before, by what they said: gone with the callers."""

    @classmethod
    def load(cls, settings: Mapping[str, CallerSettings], data_dir: Path) -> Callers:
        """Callers of the settings. Without any, the admin key of a first start (`data_dir/admin.key`).

        Raises `InvalidSettings`.
        """
        found: dict[str, Caller] = {}
        wrong: list[str] = []
        for name, caller in settings.items():
            rights: dict[Right, re.Pattern[str]] = {
                "read": _pattern(caller.read),
                "refresh": _pattern(caller.refresh),
                "admin": _pattern(caller.admin),
            }
            try:
                digest = caller.key_sha256 or key_digest(_read_key(f"callers.{name}.key_file", caller.key_file))
            except InvalidSettings as error:
                wrong += error.findings
                continue
            if digest in found:
                wrong.append(f"callers.{name}: has the same key as callers.{found[digest].name}: give each its own")
            found[digest] = Caller(name, rights, administers_all="*" in caller.admin)
        if wrong:
            raise InvalidSettings(*wrong)
        admin = data_dir / "admin.key"
        if not found and not admin.exists():
            write_private(admin, new_caller_key() + "\n")
        if admin.exists():
            everything = _pattern(["*"])
            found.setdefault(
                key_digest(_read_key("data_dir", admin)),
                Caller("admin", {"read": everything, "refresh": everything, "admin": everything}, administers_all=True),
            )
        return cls(found)

    def replace(self, other: Callers) -> None:
        """Take over another set of callers: what SIGHUP read."""
        self._by_digest, self.understood = other._by_digest, other.understood

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """The caller of a request with these *headers*. Raises `UnknownKey`."""
        return self.identify(headers.get(hdrs.AUTHORIZATION), headers.get(BROKER_KEY))

    def find_by_digest(self, digest: str) -> Caller | None:
        """The caller whose key has this digest, if there is still one."""
        return self._by_digest.get(digest)

    def named(self, name: str, key: str) -> Caller | None:
        """The caller of this *name*, if that is its *key*."""
        caller = self._by_digest.get(key_digest(key))
        return caller if caller is not None and caller.name == name else None

    def identify(self, authorization: str | None, broker_key: str | None) -> Caller:
        """The caller of a request by its `Authorization` and `X-Broker-Key`; the latter wins. Raises `UnknownKey`."""
        key = broker_key
        if key is None and authorization is not None:
            scheme, value = scheme_of(authorization)
            key = value if scheme == "bearer" else None
        if not key:
            raise UnknownKey("no key: send `Authorization: Bearer KEY` or `X-Broker-Key: KEY`")
        caller = self._by_digest.get(key_digest(key.strip()))
        if caller is None:
            raise UnknownKey(
                "unknown key: make one with `token-broker caller new NAME`; behind a proxy send it as X-Broker-Key"
            )
        return caller


def scheme_of(authorization: str) -> tuple[str, str]:
    """Scheme, in lower case, and credentials of an `Authorization`, whatever blanks are between (RFC 9110 §11.4)."""
    scheme, *value = authorization.split(None, 1) or [""]
    return scheme.lower(), value[0].rstrip() if value else ""


def _read_key(where: str, path: Path | None) -> str:
    assert path is not None  # noqa: S101 - the settings' own rule
    return secret_file(where, path, "`token-broker caller new NAME` makes a key").strip()
