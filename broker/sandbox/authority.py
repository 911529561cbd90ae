"""One authorization server without its HTTP: its registration, codes, families, ledger and faults.

It knows the protocol's rules and the clock, but neither aiohttp nor sockets.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import ipaddress
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from broker.sandbox.families import Families, view
from broker.sandbox.faults import Faults
from broker.sandbox.options import OFFLINE, FamilyView, TokenPair, TokenRequest, fingerprint
from broker.sandbox.refusal import INVALID_GRANT, INVALID_SCOPE, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.sandbox.dialect import Dialect
    from broker.sandbox.options import Options


@dataclass(slots=True)
class Code:
    """An authorization code's terms (RFC 6749 §4.1.2); `family` is what its first use created."""

    user: str
    scope: str
    redirect_uri: str
    challenge: str | None
    nonce: str | None
    expires_at: float
    family: str | None = None


class Authority:
    """An authorization server with one client registered; see `Options` for what can be changed."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        access_lifetime: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a server that has issued nothing; *access_lifetime* in seconds, None for the dialect's own.

        *clock* returns epoch seconds.
        """
        self.dialect = dialect
        self.options: Options = dialect.options()
        if access_lifetime is not None:
            self.options.access_lifetime = access_lifetime
        self.clock = clock
        self.faults = Faults()
        self.base_url = ""
        """The sandbox's address, set by it."""
        self.issuer = ""
        """The issuer in discovery and `iss`, set by the sandbox; change it to cause a mismatch."""
        self.redirect_uris: set[str] = set()
        """The registered redirect URIs; while empty, any loopback URI is accepted."""
        self.client_id = f"{dialect.name}-client"
        self.token_requests: list[TokenRequest] = []
        self._families = Families(dialect.mint)
        self._codes: dict[str, Code] = {}
        self._secrets: set[str] = set()
        self.client_secret = f"{dialect.name}-sandbox-secret"

    @property
    def client_secret(self) -> str:
        """The registered secret; every value it ever had is in `secrets()`."""
        return self._client_secret

    @client_secret.setter
    def client_secret(self, secret: str) -> None:
        self._client_secret = secret
        self.note_secret(secret)

    def endpoint(self, name: str) -> str:
        """Return the URL of an endpoint, `authorize` or `token` for instance.

        Raises:
            KeyError: this dialect has no such endpoint.

        """
        return self.base_url + self.dialect.paths[name]

    # The protocol ---------------------------------------------------------------------------------------

    def accepts_redirect(self, uri: str) -> bool:
        """Return whether redirects to *uri* are allowed: it is registered, or without registrations on loopback."""
        try:
            parts = urlsplit(uri)
            host = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme not in {"http", "https"} or "#" in uri or not uri.isprintable() or " " in uri:
            return False
        if self.dialect.strict_redirect_uri and (host == "localhost" or uri.endswith("/")):
            return False
        if self.redirect_uris:
            return uri in self.redirect_uris
        return _is_loopback(host)

    def checked_scope(self, scope: str | None) -> str:
        """Return the scope that a login requests.

        Raises:
            Refused: `invalid_scope` for one that this server does not know or that is required and missing.

        """
        known = self.dialect.scopes
        wanted = scope or ""
        if not wanted and self.options.scope_required:
            raise Refused(INVALID_SCOPE, "scope is required")
        if known is not None and not set(wanted.split()) <= known:
            raise Refused(INVALID_SCOPE, f"known scopes: {' '.join(sorted(known))}")
        return wanted or self.dialect.default_scope

    def authorize(
        self,
        user: str,
        scope: str,
        redirect_uri: str,
        *,
        challenge: str | None = None,
        nonce: str | None = None,
    ) -> str:
        """Return a fresh single-use code for what *user* has just allowed (RFC 6749 §4.1.2)."""
        code = secrets.token_urlsafe(24)
        expires_at = self.clock() + self.options.code_lifetime
        self._codes[code] = Code(user, scope, redirect_uri, challenge=challenge, nonce=nonce, expires_at=expires_at)
        self.note_secret(code)
        return code

    def exchange(self, code: str, redirect_uri: str | None, verifier: str | None) -> tuple[TokenPair, Code]:
        """Redeem a code (RFC 6749 §4.1.3, RFC 7636 §4.6); return the tokens and the code's terms.

        Raises:
            Refused: `invalid_grant`; for a second use, after revoking what the first one created.

        """
        terms = self._codes.get(code)
        now = self.clock()
        if terms is None or now >= terms.expires_at:
            raise Refused(INVALID_GRANT, "unknown or expired code")
        if terms.family is not None:
            self._families.revoke(self._families.get(terms.family))
            raise Refused(INVALID_GRANT, "the code was already used; its tokens are revoked")
        if redirect_uri != terms.redirect_uri:
            raise Refused(INVALID_GRANT, "redirect_uri differs from the authorization request's")
        if not _proves(verifier, terms.challenge):
            raise Refused(INVALID_GRANT, "code_verifier does not fit code_challenge")
        offline = not self.options.offline_by_consent or OFFLINE in terms.scope.split()
        refreshable = self.options.issue_refresh_token and offline
        pair = self._families.open(terms.user, terms.scope, self.options, now, refreshable=refreshable)
        terms.family = pair.family
        return pair, terms

    def refresh(self, token: str, scope: str | None = None) -> TokenPair:
        """Redeem a refresh token (RFC 6749 §6); see `Families.refresh` for what is rejected."""
        return self._families.refresh(token, scope, self.options, self.clock())

    def revoke(self, token: str) -> None:
        """Revoke one token (RFC 7009 §2.1); a spent or unknown one changes nothing."""
        self._families.revoke_token(token)

    def bearer(self, token: str) -> FamilyView | None:
        """Return the family whose valid access token this is (RFC 6750), None if it is not valid."""
        now = self.clock()
        family = self._families.bearer(token, now)
        return None if family is None else view(family, self.options, now)

    # The ledger -----------------------------------------------------------------------------------------

    @property
    def reuse(self) -> int:
        """How many spent refresh tokens were redeemed again outside the grace."""
        return self._families.reuse

    @property
    def families(self) -> list[FamilyView]:
        """Every family in its current state, oldest first."""
        now = self.clock()
        return [view(family, self.options, now) for family in self._families]

    def family_of(self, token: str) -> FamilyView | None:
        """Return the family that a token, live or not, belongs to."""
        family = self._families.find(token)
        return None if family is None else view(family, self.options, self.clock())

    def is_live_refresh(self, token: str) -> bool:
        """Return whether *token* is a family's current refresh token, neither revoked nor past its limits."""
        return self._families.is_live_refresh(token, self.options, self.clock())

    def is_live_access(self, token: str) -> bool:
        """Return whether the API would accept *token* now."""
        return self._families.bearer(token, self.clock()) is not None

    def issue(self, scope: str | None = None, user: str = "demo") -> TokenPair:
        """Begin a family without a login, as if *user* had allowed *scope* long ago."""
        granted = self.dialect.default_scope if scope is None else scope
        return self._families.open(user, granted, self.options, self.clock(), refreshable=True)

    def revoke_family(self, token: str) -> bool:
        """Kill every token of the family that *token*, live or not, belongs to; False if there is none."""
        family = self._families.find(token)
        if family is None:
            return False
        self._families.revoke(family)
        return True

    def revoke_all(self) -> None:
        """Kill every token of every family."""
        for family in self._families:
            self._families.revoke(family)

    def note_secret(self, secret: str) -> None:
        """Remember a secret that was sent and must not appear elsewhere."""
        self._secrets.add(secret)

    def secrets(self) -> set[str]:
        """Return every access token, refresh token, ID token, code and client secret there ever was."""
        return self._secrets | self._families.tokens()

    def note_request(self) -> TokenRequest:
        """Enter a token request into the ledger; the endpoint adds what it learns."""
        record = TokenRequest(at=self.clock(), monotonic=time.monotonic())
        self.token_requests.append(record)
        return record

    def note_presented(self, record: TokenRequest, grant_type: str | None, token: str | None) -> None:
        """Enter what a token request redeems; *token* is a refresh token or a code."""
        record.grant_type = grant_type
        if token is not None:
            record.token = fingerprint(token)
            family = self._families.find(token)
            record.family = None if family is None else family.id

    def state(self) -> dict[str, Any]:
        """Return the ledger, the options and the pending faults, ready for JSON; tokens included."""
        return {
            "client_id": self.client_id,
            "issuer": self.issuer,
            "reuse": self.reuse,
            "token_requests": [dataclasses.asdict(record) for record in self.token_requests],
            "families": [dataclasses.asdict(family) for family in self.families],
            "options": dataclasses.asdict(self.options),
            "faults": self.faults.owed(),
        }


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proves(verifier: str | None, challenge: str | None) -> bool:
    """Check S256 (RFC 7636 §4.6); a verifier without a challenge is a downgrade (RFC 9700 §2.1.1)."""
    if verifier is None or challenge is None:
        return verifier is challenge
    digest = hashlib.sha256(verifier.encode()).digest()
    return secrets.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), challenge.encode())
