"""The callers and their rights: keys by digest, rights by patterns of grant ids. Knows no route."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from aiohttp import hdrs
from multidict import istr

from broker.api.quotas import Quota
from broker.errors import InvalidRequest, InvalidSettings, NotAllowed, UnknownKey
from broker.process.data_dir import secret_line, write_private
from broker.secret import key_digest, new_caller_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from multidict import MultiMapping

    from broker.settings import Caller as CallerSettings

BROKER_KEY = istr("X-Broker-Key")
MIN_KEY = 32
"""Characters. Keys are compared by their SHA-256: a short one can be guessed from that."""
Right = Literal["read", "refresh", "view", "login", "admin"]
INCLUDED_IN: Mapping[Right, tuple[Right, ...]] = {
    "read": ("read",),
    "refresh": ("refresh",),
    "view": ("view", "admin"),
    "login": ("login", "admin"),
    "admin": ("admin",),
}
"""The settings of a caller that give each right."""
_NEW_KEY = "`token-broker caller new NAME` makes a key"


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller and its patterns: one regular expression for each right, and one for its providers."""

    name: str
    patterns: Mapping[Right, re.Pattern[str]]
    administers_all: bool = False
    """Whether one of its admin patterns is `*`: then it may also act on what concerns all grants of its providers."""
    providers: re.Pattern[str] | None = None
    """Of the names of its providers; None: all."""
    provider_names: str = "*"
    """Its patterns of providers, for people."""
    quota: Quota | None = None

    def may(self, right: Right, grant_id: str) -> bool:
        """Return whether it has *right* on *grant_id*."""
        return self.patterns[right].fullmatch(grant_id) is not None

    def require(self, right: Right, grant_id: str) -> None:
        """Require *right* on *grant_id*, which may or may not exist.

        Raises:
            NotAllowed: the caller does not have it.
        """
        if not self.may(right, grant_id):
            raise NotAllowed(
                f"caller {self.name!r} has no {right} right on this grant id: {how_to_give(right)}", caller=self.name
            )

    def may_use(self, provider: str) -> bool:
        """Return whether its rights reach grants of *provider*."""
        return self.providers is None or self.providers.fullmatch(provider) is not None

    def require_provider(self, provider: str) -> None:
        """Require that its rights reach grants of *provider*.

        Raises:
            NotAllowed: they do not.
        """
        if not self.may_use(provider):
            raise NotAllowed(
                f"caller {self.name!r} keeps to the providers {self.provider_names}, and this is another one: add it "
                "to `providers` in the caller's table, and run `token-broker reload`",
                denied="other_provider",
                caller=self.name,
            )

    def has(self, right: Right) -> bool:
        """Return whether it has *right* on any grant id at all."""
        return self.patterns[right].pattern != _NOTHING

    def rights_on(self, grant_id: str) -> list[str]:
        """Return the rights that it has on *grant_id*."""
        return [right for right in self.patterns if self.may(right, grant_id)]

    @property
    def administers(self) -> bool:
        """Whether it is admin of any grant id at all."""
        return self.has("admin")

    @property
    def administers_everything(self) -> bool:
        """Whether it may act on what concerns all grants of all providers."""
        return self.administers_all and self.providers is None


def how_to_give(right: Right, pattern: str = "PATTERN") -> str:
    """Return how an operator gives a caller *right*."""
    included = "; the right admin includes it" if "admin" in INCLUDED_IN[right][1:] else ""
    return (
        f'add {right} = ["{pattern}"] to its table in the settings and run `token-broker reload`, or make a key that '
        f"has it by `token-broker caller new NAME --{right} '{pattern}'`{included}"
    )


_NOTHING = r"(?!)"


def _pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(p) for p in patterns) or _NOTHING)


def _from_settings(name: str, caller: CallerSettings) -> Caller:
    patterns = {
        right: _pattern(p for key in given for p in getattr(caller, key)) for right, given in INCLUDED_IN.items()
    }
    return Caller(
        name,
        patterns,
        administers_all="*" in caller.admin,
        providers=None if "*" in caller.providers else _pattern(caller.providers),
        provider_names=", ".join(caller.providers),
        quota=Quota.from_settings(name, caller),
    )


class Callers:
    """All callers, by the SHA-256 of their key."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._by_digest = callers
        self.known_requests: dict[bytes, tuple[Caller, str]] = {}
        """Caller and grant of client credentials requests, by the requests' digests. Callers that change empty it."""
        self.on_replace: Callable[[], object] = lambda: None
        """Called after other callers were taken over: requests that wait must check their right again."""

    @classmethod
    def load(cls, settings: Mapping[str, CallerSettings], data_dir: Path) -> Callers:
        """Load the callers of the settings, and the admin key in `data_dir/admin.key`.

        Where there are neither, as at a first start, it makes that key.

        Raises:
            InvalidSettings: a key cannot be read, or two callers have the same.
        """
        found: dict[str, Caller] = {}
        wrong: list[str] = []
        for name, caller in settings.items():
            try:
                digest = caller.key_sha256 or key_digest(_read_key(f"callers.{name}.key_file", caller.key_file))
            except InvalidSettings as error:
                wrong += error.findings
                continue
            if digest in found:
                wrong.append(f"callers.{name}: has the same key as callers.{found[digest].name}: give each its own")
            found[digest] = _from_settings(name, caller)
        if wrong:
            raise InvalidSettings(*wrong)
        admin = data_dir / "admin.key"
        if not found and not admin.exists():
            write_private(admin, new_caller_key() + "\n")
        if admin.exists():
            everything = _pattern(["*"])
            found.setdefault(
                key_digest(_read_key("data_dir", admin)),
                Caller("admin", dict.fromkeys(INCLUDED_IN, everything), administers_all=True),
            )
        return cls(found)

    def replace(self, other: Callers) -> None:
        """Take over another set of callers: what a reload of the settings gave."""
        quotas = {caller.name: caller.quota for caller in self._by_digest.values() if caller.quota is not None}
        self._by_digest = {
            digest: replace(caller, quota=quotas[caller.name].with_limits_of(caller.quota))
            if caller.quota is not None and caller.name in quotas
            else caller
            for digest, caller in other._by_digest.items()
        }
        self.known_requests = {}
        self.on_replace()

    @property
    def admins(self) -> tuple[str, ...]:
        """The callers who are admin of any grant id: they may sign in at the status page."""
        return tuple(sorted(caller.name for caller in self._by_digest.values() if caller.administers))

    def rekeyed(self, other: Callers) -> tuple[str, ...]:
        """Return the callers of both sets whose keys differ, by name."""
        digests = {caller.name: digest for digest, caller in self._by_digest.items()}
        changed = {caller.name for digest, caller in other._by_digest.items() if digests.get(caller.name) != digest}
        return tuple(sorted(changed & digests.keys()))

    def authenticate(self, headers: MultiMapping[str]) -> Caller:
        """Return the caller of a request with these *headers*.

        Raises:
            InvalidRequest: a header with a key is there twice.
            UnknownKey: there is no key, or no caller has it.
        """
        return self.identify(single(headers, hdrs.AUTHORIZATION), single(headers, BROKER_KEY))

    def find_by_digest(self, digest: str) -> Caller | None:
        """Return the caller whose key has this digest; None where no caller has it any more."""
        return self._by_digest.get(digest)

    def find_by_name(self, name: str, key: str) -> Caller | None:
        """Return the caller of this *name*; None where it does not exist or *key* is not its key."""
        caller = self._by_digest.get(key_digest(key))
        return caller if caller is not None and caller.name == name else None

    def identify(self, authorization: str | None, broker_key: str | None) -> Caller:
        """Return the caller of a request by its `Authorization` and `X-Broker-Key`; the latter wins.

        Raises:
            UnknownKey: there is no key, or no caller has it.
        """
        key = broker_key
        if key is None and authorization is not None:
            scheme, value = split_authorization(authorization)
            key = value if scheme == "bearer" else None
        if not key:
            raise UnknownKey("no key: send `Authorization: Bearer KEY` or `X-Broker-Key: KEY`", denied="no_key")
        caller = self._by_digest.get(key_digest(key.strip()))
        if caller is None:
            raise UnknownKey(
                "unknown key: make one with `token-broker caller new NAME`; behind a proxy send it as X-Broker-Key"
            )
        if len(key.strip()) < MIN_KEY:
            words = f"the key of {caller.name!r} is shorter than {MIN_KEY} characters: {_NEW_KEY}"
            raise UnknownKey(words, denied="short_key", caller=caller.name)
        return caller


def single(headers: MultiMapping[str], name: str) -> str | None:
    """Return the value of a header that may be there once (RFC 9110 §5.3); None where it is missing.

    Raises:
        InvalidRequest: it is there twice: a proxy before the broker may look at another one of them than the broker.
    """
    values = headers.getall(name, ())
    if len(values) > 1:
        error = InvalidRequest(f"{name} is sent {len(values)} times: send one")
        error.denied = "two_keys" if name in {BROKER_KEY, hdrs.AUTHORIZATION} else None
        raise error
    return values[0] if values else None


def split_authorization(authorization: str) -> tuple[str, str]:
    """Split an `Authorization` into its scheme, in lower case, and its credentials (RFC 9110 §11.4)."""
    scheme, *value = authorization.split(None, 1) or [""]
    return scheme.lower(), value[0].rstrip() if value else ""


def _read_key(where: str, path: Path | None) -> str:
    if path is None:
        raise InvalidSettings(f"{where}: is missing: set key_sha256 or key_file")
    key = secret_line(where, path, _NEW_KEY, "other").strip()
    if len(key) < MIN_KEY:
        raise InvalidSettings(f"{where}: the key in {path} is shorter than {MIN_KEY} characters: {_NEW_KEY}")
    return key
