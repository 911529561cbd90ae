"""A client that does exactly what a description demands, or departs from it in one point.

By it the emulators are tested: an emulator that accepts a departure could not show a mistake of the broker either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from tests.catalogue.asked import FORM, Asked
from tests.catalogue.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.catalogue.demands import Demands, Reply

CLIENT_ID = "the-client-id"
CLIENT_SECRET = "the-client-secret-0123456789"
CALLBACK = "https://broker.acme.test/callback"
VERIFIER = "a-verifier-of-forty-three-characters-at-the-least"


def emulator_of(demands: Demands) -> Emulator:
    """Return an emulator that knows the client of this module."""
    return Emulator(demands, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uri=CALLBACK)


@dataclass(frozen=True, slots=True)
class Departure:
    """What a client does otherwise than demanded; without any it does all as demanded."""

    name: str = ""
    authorize: dict[str, str | None] = field(default_factory=dict)
    """Parameters instead of the right ones; None leaves one out."""
    exchange: dict[str, str | None] = field(default_factory=dict)
    refresh: dict[str, str | None] = field(default_factory=dict)
    headers: dict[str, str | None] = field(default_factory=dict)
    by: str = ""
    """Another way of authenticating."""
    secret: str = CLIENT_SECRET
    json: bool | None = None
    """Whether bodies are JSON."""
    refresh_at: str = ""
    """Another endpoint for refreshing."""
    encoded: bool = False
    """The redirect_uri is percent-encoded where it must not be."""


@dataclass(slots=True)
class ExactClient:
    """Logs in and refreshes at an emulator."""

    emulator: Emulator
    departure: Departure = field(default_factory=Departure)

    def log_in(self) -> tuple[Reply, dict[str, Any]]:
        """Return the answer to the exchange, and the tokens in it."""
        demands = self.emulator.demands
        right = self._authorization()
        given = {name: value for name, value in (right | self.departure.authorize).items() if value is not None}
        plain = demands.login.redirect_uri == "plain" and not self.departure.encoded
        query = "&".join(
            f"{name}={value if plain and name == 'redirect_uri' else quote(value, safe='')}"
            for name, value in given.items()
        )
        back = parse_qs(urlsplit(self.emulator.authorize(f"{demands.at.authorize}?{query}")).query)
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": back[demands.login.code_name][0],
            "redirect_uri": self.emulator.registered,
            **demands.exchange.needs,
            **demands.exchange.offline,
        }
        if "code_challenge" in right:
            form["code_verifier"] = VERIFIER
        reply = self._send(demands.at.token, form | self.departure.exchange)
        return reply, tokens_in(reply)

    def refresh(self, refresh_token: str) -> tuple[Reply, dict[str, Any]]:
        """Return the answer to a refresh, and the tokens in it."""
        demands = self.emulator.demands
        form: dict[str, str | None] = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            **demands.refresh.needs,
        }
        url = self.departure.refresh_at or demands.at.refresh or demands.at.token
        reply = self._send(url, form | self.departure.refresh)
        return reply, tokens_in(reply)

    def _authorization(self) -> dict[str, str | None]:
        demands = self.emulator.demands
        right: dict[str, str | None] = {
            "response_type": "code",
            demands.client.id_name: self.emulator.client_id,
            "redirect_uri": self.emulator.registered,
            "state": "a-state",
            **demands.login.needs,
            **demands.login.offline,
        }
        if demands.given.scope is not None:
            right[demands.login.scope_name] = demands.login.separator.join(demands.given.scope.split())
        if demands.login.pkce in {"demanded", "checked"}:
            digest = hashlib.sha256(VERIFIER.encode()).digest()
            right["code_challenge"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            right["code_challenge_method"] = "S256"
        return right

    def _send(self, url: str, wanted: dict[str, str | None]) -> Reply:
        client, departure = self.emulator.demands.client, self.departure
        form = {name: value for name, value in wanted.items() if value is not None}
        headers: dict[str, str | None] = {"Accept": "application/json"}
        headers |= {name: "anything" if value == "*" else value for name, value in client.headers.items()}
        match departure.by or client.by[0]:
            case "post":
                form |= {client.id_name: self.emulator.client_id, "client_secret": departure.secret}
            case "key":
                headers["Authorization"] = _basic(departure.secret, "")
            case "basic":
                headers["Authorization"] = _basic(self.emulator.client_id, departure.secret)
            case _:  # a client that does not authenticate
                form[client.id_name] = self.emulator.client_id
        as_json = client.body == "json" if departure.json is None else departure.json
        headers["Content-Type"] = "application/json" if as_json else FORM
        headers |= departure.headers
        body = (json.dumps(form) if as_json else urlencode(form)).encode()
        sent = {name: value for name, value in headers.items() if value is not None}
        return self.emulator.token(Asked("POST", url, sent, body))


def tokens_in(reply: Reply) -> dict[str, Any]:
    """Return the tokens of an answer, wherever they stand; {} if it has no access token."""
    try:
        body = json.loads(reply.body)
    except ValueError:
        return {}
    levels = [body, *(value for value in body.values() if isinstance(value, dict))]
    return next((level for level in levels if "access_token" in level), {})


def departures(demands: Demands) -> Iterator[Departure]:
    """Yield every departure from what a provider demands that it must not accept."""
    yield from _from_the_login(demands)
    client = demands.client
    for by in {"basic", "post", "key", "nothing"} - {*client.by} - ({"basic"} if "key" in client.by else set()):
        yield Departure(f"authenticates by {by}", by="nothing" if by == "key" and "basic" in client.by else by)
    yield Departure("a wrong secret", secret="wrong")
    if client.body == "json":
        yield Departure("a form instead of JSON", json=False)
    if client.body in {"form", "form or query"}:
        yield Departure("JSON instead of a form", json=True)
    for name, value in client.headers.items():
        yield Departure(f"no header {name}", headers={name: None})
        if value != "*":
            yield Departure(f"a wrong header {name}", headers={name: "wrong"})
    for part, demanded in (("exchange", demands.exchange), ("refresh", demands.refresh)):
        for name in demanded.needs:
            yield _departure(part, f"without {name}", {name: None})
            yield _departure(part, f"with a wrong {name}", {name: "wrong"})
        for name in demanded.refuses:
            yield _departure(part, f"with {name}", {name: "there"})
        if demanded.redirect_uri == "needed":
            yield _departure(part, "without redirect_uri", {"redirect_uri": None})
        yield _departure(part, "with another redirect_uri", {"redirect_uri": "https://evil.example/"})
    for name in demands.exchange.offline:
        yield Departure(f"exchange without {name}", exchange={name: None})
    if demands.login.pkce in {"demanded", "checked"}:
        yield Departure("exchange with a wrong code_verifier", exchange={"code_verifier": "wrong"})
        yield Departure("exchange without code_verifier", exchange={"code_verifier": None})
    yield Departure("a made-up code", exchange={"code": "made-up"})
    if demands.at.refresh is not None:
        yield Departure("refreshes at the token endpoint", refresh_at=demands.at.token)


def _departure(part: str, name: str, changed: dict[str, str | None]) -> Departure:
    """Return a departure in the parameters of "exchange" or "refresh"."""
    exchange, refresh = (changed, {}) if part == "exchange" else ({}, changed)
    return Departure(f"{part} {name}", exchange=exchange, refresh=refresh)


def _from_the_login(demands: Demands) -> Iterator[Departure]:
    login, name = demands.login, demands.login.scope_name
    for wanted in ({demands.client.id_name: "", "response_type": "code"}, login.needs, login.offline):
        for parameter in wanted:
            yield Departure(f"authorize without {parameter}", authorize={parameter: None})
            yield Departure(f"authorize with a wrong {parameter}", authorize={parameter: "wrong"})
    yield Departure("authorize with another redirect_uri", authorize={"redirect_uri": "https://evil.example/"})
    if login.redirect_uri == "name":
        yield Departure("authorize with the URL for redirect_uri", authorize={"redirect_uri": CALLBACK})
    if login.redirect_uri == "plain":
        yield Departure("authorize with an encoded redirect_uri", encoded=True)
    for parameter in login.refuses:
        yield Departure(f"authorize with {parameter}", authorize={parameter: "there"})
    if login.scope == "needed":
        yield Departure("authorize without scope", authorize={name: None})
        other = "," if login.separator == " " else " "
        yield Departure("a scope that is separated otherwise", authorize={name: f"one{other}two"})
    for word in login.scope_refuses:
        yield Departure(f"the scope {word}", authorize={name: f"openid {word}"})
    if login.offline_scope:
        yield Departure("a scope without the word for a refresh token", authorize={name: "openid"})
    if login.pkce == "demanded":
        yield Departure("authorize without code_challenge", authorize={"code_challenge": None})
        yield Departure("a plain code_challenge", authorize={"code_challenge_method": "plain"})
    if login.pkce == "refused":
        yield Departure("authorize with code_challenge", authorize={"code_challenge": "there"})


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
