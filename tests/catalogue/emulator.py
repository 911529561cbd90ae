"""One provider, played by its description: it refuses whatever the description does not allow.

`Emulator` is the provider without sockets: a request in, an answer out; `tests.catalogue.server` gives it hosts and
TLS. Knows nothing of the broker, and of the catalogue that it ships.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.catalogue.asked import FORM, Asked, Refused, authenticate, forbid, once, read_form, require
from tests.catalogue.demands import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.catalogue.demands import Demands, TokenRequest


@dataclass(slots=True)
class Code:
    """What a login allowed, until its code is redeemed."""

    redirect_uri: str | None
    challenge: str | None
    nonce: str | None
    words: list[str]
    """Of the scope."""
    offline: bool


@dataclass(slots=True)
class Grant:
    """What a login's tokens belong to."""

    words: list[str]
    nonce: str | None
    offline: bool
    access: str = ""
    access_ends: float = 0
    refresh: str = ""
    spent: dict[str, float] = field(default_factory=dict)
    """Refresh tokens before, and when each was spent."""
    dead: Reply | None = None
    """What its refresh token meets once it is dead."""


class Emulator:
    """A provider with one client."""

    def __init__(self, demands: Demands, *, client_id: str, client_secret: str, redirect_uri: str) -> None:
        self.demands = demands
        self.client_id = client_id
        self.client_secret = client_secret
        self.callback_url = redirect_uri
        self.registered = "Acme-Broker-PRD-0123456789" if demands.login.redirect_uri == "name" else redirect_uri
        self.busy: Reply | None = None
        """What every token request meets."""
        self.reuse = 0
        """Spent refresh tokens that were presented again."""
        self.refusals: list[str] = []
        self.requests: Counter[str] = Counter()
        """Token requests that succeeded: exchange, refresh."""
        self.grants: list[Grant] = []
        self._codes: dict[str, Code] = {}

    # The authorization endpoint ---------------------------------------------------------------------------

    def authorize(self, url: str) -> str:
        """Return where the browser is sent to after its user agreed.

        Raises:
            Refused: the provider shows an error page instead.
        """
        login = self.demands.login
        query = urlsplit(url).query
        given = once(parse_qsl(query, keep_blank_values=True))
        if given.get(self.demands.client.id_name) != self.client_id:
            raise Refused(f"{self.demands.client.id_name} does not name the client")
        self._redirect_uri(query, given.get("redirect_uri"))
        for name, value in {"response_type": "code", **login.needs}.items():
            require(given, name, value)
        forbid(given, login.refuses)
        words = self._scope(given)
        challenge = self._challenge(given)
        offline = all(given.get(name) == value for name, value in login.offline.items()) and (
            not login.offline_scope or any(word in words for word in login.offline_scope)
        )
        code = secrets.token_urlsafe(18)
        self._codes[code] = Code(given.get("redirect_uri"), challenge, given.get("nonce"), words, offline)
        back = {login.code_name: code, **login.callback}
        if login.state and "state" in given:
            back["state"] = given["state"]
        return f"{self.callback_url}?{urlencode(back)}"

    def _redirect_uri(self, query: str, given: str | None) -> None:
        login = self.demands.login
        if given is None and not login.redirect_needed:
            return
        if given != self.registered:
            raise Refused("redirect_uri is not the registered one")
        if login.redirect_uri == "plain" and f"redirect_uri={given}" not in query:
            raise Refused("redirect_uri is percent-encoded")

    def _scope(self, given: Mapping[str, str]) -> list[str]:
        login = self.demands.login
        scope = given.get(login.scope_name)
        if login.scope == "none":
            return []
        if scope is None and login.scope == "open":
            return []
        if not scope:
            raise Refused(f"{login.scope_name} is missing or empty")
        if any(separator in scope for separator in {" ", ","} - {login.separator}):
            raise Refused(f"{login.scope_name} is separated by something else than {login.separator!r}")
        words = scope.split(login.separator)
        if any(word in words for word in login.scope_refuses):
            raise Refused(f"{login.scope_name} holds a word that is not known here")
        return words

    def _challenge(self, given: Mapping[str, str]) -> str | None:
        login = self.demands.login
        challenge = given.get("code_challenge")
        if login.pkce == "demanded" and not challenge:
            raise Refused("code_challenge is missing")
        if login.pkce == "refused" and challenge:
            raise Refused("code_challenge is not known here")
        if challenge and given.get("code_challenge_method") != "S256":
            raise Refused("code_challenge_method is not S256")
        return challenge if login.pkce in {"demanded", "checked"} else None

    # The token endpoint -----------------------------------------------------------------------------------

    def token(self, asked: Asked) -> Reply:
        """Answer one request to the token endpoint."""
        answers = self.demands.answers
        try:
            kind, body = self._token(asked)
        except Refused as refused:
            self.refusals.append(str(refused))
            return refused.reply or answers.wrong
        self.requests[kind] += 1
        if answers.form_without_accept and "application/json" not in asked.header("Accept"):
            return Reply(status=200, body=urlencode(json.loads(body)), type=FORM)
        return Reply(status=200, body=body)

    def _token(self, asked: Asked) -> tuple[str, str]:
        at = self.demands.at
        if asked.method != "POST":
            raise Refused("not a POST")
        if self.busy is not None:
            raise Refused("busy", self.busy)
        for name, value in self.demands.client.headers.items():
            if not (came := asked.header(name)) or value not in {"*", came}:
                raise Refused(f"header {name} is missing or wrong")
        form = read_form(asked, self.demands)
        authenticate(asked, form, self.demands, self.client_id, self.client_secret)
        here = asked.url.partition("?")[0]
        tokens = {at.token, *at.same_as_token}
        match form.get("grant_type"):
            case "authorization_code" if here in tokens:
                return "exchange", self._exchange(form)
            case "refresh_token" if here in ({at.refresh} if at.refresh else tokens):
                return "refresh", self._refresh(form)
            case other:
                raise Refused(f"grant_type {other} is not known here")

    def _exchange(self, form: Mapping[str, str]) -> str:
        demands = self.demands
        code = self._codes.pop(form.get("code", ""), None)
        if code is None:
            raise Refused("the code is unknown", self.dead)
        self._check(form, demands.exchange)
        if (demands.exchange.redirect_uri == "needed" or "redirect_uri" in form) and (
            form.get("redirect_uri") != code.redirect_uri
        ):
            raise Refused("redirect_uri is not the login's", self.dead)
        if code.challenge is not None and code.challenge != _s256(form.get("code_verifier", "")):
            raise Refused("code_verifier does not fit", self.dead)
        offline = code.offline and all(form.get(key) == value for key, value in demands.exchange.offline.items())
        grant = Grant(code.words, code.nonce, offline, refresh=secrets.token_urlsafe(24) if offline else "")
        self.grants.append(grant)
        self._issue(grant)
        return self._body(demands.answers.login, grant)

    def _refresh(self, form: Mapping[str, str]) -> str:
        demands, tokens = self.demands, self.demands.tokens
        presented = form.get("refresh_token", "")
        self._check(form, demands.refresh)
        if (demands.refresh.redirect_uri == "needed" or "redirect_uri" in form) and (
            form.get("redirect_uri") != self.registered
        ):
            raise Refused("redirect_uri is not the login's", self.dead)
        grant = next((one for one in self.grants if presented and presented in {one.refresh, *one.spent}), None)
        if grant is None or grant.dead is not None:
            raise Refused("the refresh token is dead", _with_token((grant and grant.dead) or self.dead, presented))
        if presented in grant.spent:
            self._reuse(grant, presented)
        left = grant.access_ends - time.time()
        if tokens.earliest is not None and left > tokens.earliest:
            raise Refused("too early", demands.answers.busy[0])
        if tokens.same_access_above is None or left <= tokens.same_access_above:
            self._issue(grant)
        if tokens.rotates and presented == grant.refresh:
            grant.spent[grant.refresh] = time.time()
            grant.refresh = secrets.token_urlsafe(24)
        return self._body(demands.answers.refresh or demands.answers.login, grant)

    def _reuse(self, grant: Grant, presented: str) -> None:
        """Raise `Refused` unless the provider accepts this spent refresh token again."""
        tokens = self.demands.tokens
        self.reuse += 1
        last = presented == list(grant.spent)[-1]
        if tokens.spent == "alive" or (tokens.spent == "until next" and last):
            return
        if time.time() - grant.spent[presented] < tokens.grace:
            return
        if tokens.spent == "family":
            grant.dead = self.dead
        raise Refused("the refresh token is spent", _with_token(self.dead, presented))

    def _check(self, form: Mapping[str, str], demanded: TokenRequest) -> None:
        for name, value in demanded.needs.items():
            require(form, name, value)
        forbid(form, demanded.refuses)

    def _issue(self, grant: Grant) -> None:
        grant.access = f"at-{secrets.token_urlsafe(24)}"
        grant.access_ends = time.time() + self.demands.tokens.lifetime

    def _body(self, template: str, grant: Grant) -> str:
        ends = datetime.fromtimestamp(grant.access_ends, UTC)
        values = {
            "%AT%": grant.access,
            "%RT%": grant.refresh,
            "%IDT%": self._id_token(grant),
            "%LEFT%": str(round(grant.access_ends - time.time())),
            "%NOW%": str(int(time.time())),
            "%END%": str(round(grant.access_ends)),
            "%END_ISO%": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for name, value in values.items():
            template = template.replace(name, value)
        body = json.loads(template)
        if not body.get("id_token", "there"):
            del body["id_token"]
        return json.dumps(body if grant.offline else _without_refresh_token(body))

    def _id_token(self, grant: Grant) -> str:
        account = self.demands.account
        if account is None or not account.claims or (account.claims_need and account.claims_need not in grant.words):
            return ""
        now = int(time.time())
        claims = {
            "iss": self.demands.at.issuer,
            "aud": self.client_id,
            "iat": now,
            "exp": now + 3600,
            **({"nonce": grant.nonce} if grant.nonce else {}),
            **account.claims,
        }
        return f"{_base64url({'alg': 'RS256', 'typ': 'JWT'})}.{_base64url(claims)}.{_base64url('unchecked')}"

    # What else is asked -----------------------------------------------------------------------------------

    def account(self, authorization: str) -> Reply:
        """Answer a question for the account, with an access token of the last ones issued."""
        token = authorization.partition(" ")[2]
        if self.demands.account is None or not any(token == grant.access for grant in self.grants):
            return Reply(status=401, body='{"error":"invalid_token"}')
        return Reply(status=200, body=self.demands.account.answer)

    def revoke(self, asked: Asked) -> Reply:
        """Answer a logout by RFC 7009."""
        try:
            form = read_form(asked, self.demands)
            authenticate(asked, form, self.demands, self.client_id, self.client_secret)
            require(form, "token", "*")
        except Refused as refused:
            self.refusals.append(str(refused))
            return refused.reply or self.demands.answers.wrong
        return self._end(form["token"])

    def log_out(self, authorization: str) -> Reply:
        """Answer a logout by DELETE with the access token."""
        return self._end(authorization.partition(" ")[2])

    def _end(self, token: str) -> Reply:
        for grant in self.grants:
            if token in {grant.access, grant.refresh}:
                grant.dead = self.dead
        return Reply(status=200)

    def discovery(self) -> dict[str, Any]:
        """Return the discovery document (OpenID Connect Discovery §3)."""
        methods = {"basic": "client_secret_basic", "post": "client_secret_post", "key": "client_secret_basic"}
        return {
            "issuer": self.demands.at.issuer_in_document or self.demands.at.issuer,
            "authorization_endpoint": self.demands.at.authorize,
            "token_endpoint": self.demands.at.token,
            "jwks_uri": f"{self.demands.at.issuer}/jwks",
            **({"revocation_endpoint": self.demands.at.revoke} if self.demands.at.revoke else {}),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": [methods[way] for way in self.demands.client.by],
            "code_challenge_methods_supported": ["S256"],
        }

    # What a test does to it -------------------------------------------------------------------------------

    @property
    def dead(self) -> Reply:
        """What a dead refresh token meets, if nothing else was said."""
        return self.demands.answers.dead[0]

    def age(self) -> None:
        """Let so much of every access token's life pass that a refresh brings another one."""
        tokens = self.demands.tokens
        left = min(tokens.lifetime, *(value for value in (tokens.same_access_above, tokens.earliest) if value), 10**9)
        for grant in self.grants:
            grant.access_ends = time.time() + left / 2

    def secrets(self) -> set[str]:
        """Return every token and client secret there is."""
        tokens = {token for grant in self.grants for token in (grant.access, grant.refresh, *grant.spent)}
        return {self.client_secret} | (tokens - {""})


def _s256(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _base64url(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _without_refresh_token(body: Any) -> Any:
    """Return *body* without the refresh token and what is said of it, on every level."""
    if not isinstance(body, dict):
        return body
    return {key: _without_refresh_token(value) for key, value in body.items() if "refresh_" not in key}


def _with_token(reply: Reply, presented: str) -> Reply:
    """Put the refresh token sent into a refusal that repeats it."""
    return reply.model_copy(update={"body": reply.body.replace("%RT%", presented)})
