"""The authorization endpoint (RFC 6749 §3.1, §4.1.1): login, consent, and the redirect back."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import web

from broker.sandbox.endpoints import faulty
from broker.sandbox.forms import raw_query
from broker.sandbox.options import OFFLINE
from broker.sandbox.pages import HEADERS, consent_page, error_page, login_page
from broker.sandbox.refusal import ACCESS_DENIED, INVALID_REQUEST, UNSUPPORTED_RESPONSE_TYPE, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.sandbox.authority import Authority
    from broker.sandbox.endpoints import Handler

USER: Final = "demo"
PASSWORD: Final = "demo"
"""Opens the account of every user name."""

_TWICE: Final = "A parameter occurs twice."
_UNKNOWN_CLIENT: Final = "This client is not registered here."
_ENCODED: Final = "The redirect_uri must not be percent-encoded."
_UNREGISTERED: Final = "This redirect_uri is not registered."

_S256_LENGTH: Final = 43
"""Characters of a base64url SHA-256 (RFC 7636 §4.2)."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has signed in."""

    user: str
    csrf: str


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """An authorization request that may be shown to a user."""

    scope: str
    challenge: str | None
    nonce: str | None


class Untrusted(Exception):
    """Client or redirect URI cannot be trusted, so the user gets the error instead (RFC 6749 §4.1.2.1)."""


class AuthorizationEndpoint:
    """Login and consent of one authority; its sessions live as long as it does."""

    def __init__(self, authority: Authority) -> None:
        """Serve *authority*."""
        self._authority = authority
        self._sessions: dict[str, Session] = {}
        # Cookies ignore ports, so several servers on 127.0.0.1 need different names.
        self._cookie = f"sandbox_{authority.dialect.name}"

    def handler(self) -> Handler:
        """Return the handler for GET and POST."""
        return faulty(self._authority, "authorize", self._handle)

    async def _handle(self, request: web.Request) -> web.Response:
        title = self._authority.dialect.title
        try:
            parameters = self._trusted(request)
        except Untrusted as untrusted:
            return error_page(title, str(untrusted))
        try:
            asked = self._parse(parameters)
        except Refused as refused:
            return self._redirect(parameters, error=refused.error, error_description=refused.description)
        form = await request.post() if request.method == "POST" else {}
        if form.get("step") == "login":
            return self._sign_in(request, str(form.get("user", "")), str(form.get("password", "")))
        session = self._sessions.get(request.cookies.get(self._cookie, ""))
        if session is None:
            return login_page(title, user=USER, password=PASSWORD)
        return self._consent(parameters, asked, session, form)

    def _consent(
        self,
        parameters: Mapping[str, str],
        asked: AuthorizationRequest,
        session: Session,
        form: Mapping[str, object],
    ) -> web.Response:
        title = self._authority.dialect.title
        if "decision" not in form:
            target = urlsplit(parameters["redirect_uri"])
            return consent_page(
                title,
                user=session.user,
                client=self._authority.client_id,
                scope=asked.scope,
                destination=f"{target.scheme}://{target.netloc}",
                csrf=session.csrf,
            )
        if not secrets.compare_digest(str(form.get("csrf", "")).encode(), session.csrf.encode()):
            return error_page(title, "This form was not sent by the page that it belongs to.", status=403)
        if form["decision"] != "allow":
            return self._redirect(parameters, error=ACCESS_DENIED, error_description="the user denied it")
        code = self._authority.authorize(
            session.user,
            asked.scope,
            parameters["redirect_uri"],
            challenge=asked.challenge,
            nonce=asked.nonce,
        )
        return self._redirect(parameters, code=code)

    def _trusted(self, request: web.Request) -> dict[str, str]:
        """Return the parameters once client and redirect URI are known to be valid."""
        raw = raw_query(request)
        pairs = parse_qsl(raw)
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            raise Untrusted(_TWICE)
        if parameters.get("client_id") != self._authority.client_id:
            raise Untrusted(_UNKNOWN_CLIENT)
        strict = self._authority.dialect.strict_redirect_uri
        if strict and any(part.startswith("redirect_uri=") and "%" in part for part in raw.split("&")):
            raise Untrusted(_ENCODED)
        if not self._authority.accepts_redirect(parameters.get("redirect_uri", "")):
            raise Untrusted(_UNREGISTERED)
        return parameters

    def _parse(self, parameters: Mapping[str, str]) -> AuthorizationRequest:
        if parameters.get("response_type") != "code":
            raise Refused(UNSUPPORTED_RESPONSE_TYPE, "response_type=code only")
        challenge = parameters.get("code_challenge")
        if challenge is None and self._authority.options.require_pkce:
            raise Refused(INVALID_REQUEST, "code_challenge is required")
        if challenge is not None and parameters.get("code_challenge_method", "plain") != "S256":
            raise Refused(INVALID_REQUEST, "code_challenge_method=S256 only")
        if challenge is not None and len(challenge) != _S256_LENGTH:
            raise Refused(INVALID_REQUEST, "code_challenge is not a SHA-256")
        scope = self._authority.checked_scope(parameters.get("scope"))
        if self._authority.options.offline_by_consent and "consent" not in parameters.get("prompt", "").split():
            scope = " ".join(part for part in scope.split() if part != OFFLINE)
        return AuthorizationRequest(scope, challenge, parameters.get("nonce"))

    def _sign_in(self, request: web.Request, user: str, password: str) -> web.Response:
        if not user.strip() or not secrets.compare_digest(password.encode(), PASSWORD.encode()):
            return login_page(self._authority.dialect.title, user=USER, password=PASSWORD, failed=True)
        session_id = secrets.token_urlsafe(24)
        self._sessions[session_id] = Session(user.strip(), secrets.token_urlsafe(24))
        # Post, redirect, get: the same URL, untouched, now shows the consent page.
        response = web.Response(status=303, headers={**HEADERS, "Location": request.raw_path})
        path = self._authority.dialect.paths["authorize"]
        response.set_cookie(self._cookie, session_id, path=path, httponly=True, samesite="Lax")
        return response

    def _redirect(self, parameters: Mapping[str, str], **members: str) -> web.Response:
        options = self._authority.options
        if options.return_state and "state" in parameters:
            members["state"] = parameters["state"]
        if options.send_iss:
            members["iss"] = self._authority.issuer
        target = parameters["redirect_uri"]
        location = f"{target}{'&' if '?' in target else '?'}{urlencode(members)}"
        return web.Response(status=302, headers={**HEADERS, "Location": location})
