"""The sandbox's token families without sockets, and what is known of who has heard their answers.

The state machine decides when a request is processed and what its sender hears; a socket would decide that for it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

from broker.model import NotSent, Unknown
from broker.providers import http as provider_http
from broker.providers.faults import TOO_LATE
from broker.sandbox.families import Families, Family
from broker.sandbox.options import Options
from broker.sandbox.refusal import Refused

LIFE = 3600
GRACE = 30
TokenResponse = provider_http.Reply | NotSent | Unknown

REDEEMED = ("refreshed", "unusable", "kept", "same", "500 after", "cut off", "silent after")
"""Answers to a token request that was processed; in the last three nobody receives the new token."""
NOT_REDEEMED = (
    "refused",
    "503",
    "429",
    "500 before",
    "silent before",
    "invalid_grant",
    "invalid_client",
    "invalid_request",
    "302",
)
KINDS = REDEEMED + NOT_REDEEMED


@dataclass(eq=False)
class Request:
    """A token request under way: who sent it, and who could have prevented it."""

    sender: str
    server: Server
    token: str
    reachable: frozenset[str]
    """Replicas whose journals were replayed when it was sent."""
    answer: asyncio.Future[TokenResponse]


@dataclass
class Server:
    """One provider's server: rotates, and revokes a family whose spent token comes again."""

    grace: float
    families: Families = field(default_factory=lambda: Families(lambda: secrets.token_urlsafe(12)))
    ahead: float = 0.0
    requests: list[Request] = field(default_factory=list)
    unheard: set[str] = field(default_factory=set)
    """Families whose last rotation nobody received."""
    holders: dict[str, set[str]] = field(default_factory=dict)
    """Refresh token to the replicas that were given it, and so have it in their journals."""
    faults: list[str] = field(default_factory=list)
    """What must not have happened."""
    limits: set[str] = field(default_factory=set)
    """Families lost since the one replica that had heard was out of reach when its lease and token ended."""

    @property
    def now(self) -> float:
        return time.time() + self.ahead

    @property
    def options(self) -> Options:
        return Options(access_lifetime=LIFE, reuse_grace=self.grace)

    def begin(self) -> tuple[Family, dict[str, Any]]:
        """Return a family, as a login or somebody else's broker began it, and its first answer."""
        pair = self.families.open("demo", "s", self.options, self.now, refreshable=True)
        return self.families.get(pair.family), _body(pair)

    def family(self, token: str) -> Family | None:
        """Whose token this is."""
        return self.families.find(token)

    def lives(self, token: str) -> bool:
        """Whether redeeming it would succeed without a grace."""
        return self.families.is_live_refresh(token, self.options, self.now)

    def respond(self, request: Request, kind: str) -> None:
        """Process *request* as *kind* says, and answer it."""
        request.answer.set_result(self.process(request, kind, heard=True))

    def process(self, request: Request, kind: str, *, heard: bool) -> TokenResponse:
        """Process *request*; whether its sender will have *heard* the answer."""
        self.requests.remove(request)
        if kind in NOT_REDEEMED:
            return _not_redeemed(kind)
        family = self.family(request.token)
        assert family is not None
        before, reuse, newest = self.families.reuse, request.token in family.spent, family.refresh_token or ""
        options = replace(
            self.options, omit_refresh_token_on_refresh=kind == "kept", same_token_until_expiry=kind == "same"
        )
        try:
            pair = self.families.refresh(request.token, None, options, self.now)
        except Refused as refused:
            if self.families.reuse > before:
                self._reused(request, family, newest)
            return _json(400, {"error": refused.error})
        heard = heard and kind in {"refreshed", "unusable", "kept", "same"}
        rotated = family.spent.keys() >= {request.token}
        if rotated or reuse:
            if heard:
                self.unheard.discard(family.id)
                self.holders.setdefault(family.refresh_token or "", set()).add(request.sender)
            elif not reuse:
                self.unheard.add(family.id)
        return _redeemed(kind, _body(pair))

    def _reused(self, request: Request, family: Family, newest: str) -> None:
        if family.id in self.unheard:
            return
        holders = self.holders.get(newest, set())
        if not holders & request.reachable:
            self.limits.add(family.id)
            return
        self.faults.append(f"{request.sender} redeemed a token again although {sorted(holders)} had its successor")


class Link:
    """Stands where a replica's HTTP client stands: its requests go to the servers, and wait there."""

    request_timeout = 10.0

    def __init__(self, name: str, servers: dict[str, Server], reachable: Callable[[], frozenset[str]]) -> None:
        self._name = name
        self._servers = servers
        self._reachable = reachable

    async def send(
        self, request: provider_http.Request, *, timeout: float, clock: Callable[[], int] | None = None
    ) -> TokenResponse:
        """One request of an `Endpoint`; what came of it."""
        if timeout <= 0:
            return TOO_LATE
        _, _, path = request.url.partition("//")
        server = self._servers[path.split(".")[0]]
        form = {name: values[0] for name, values in parse_qs((request.body or b"").decode()).items()}
        if path.endswith("/revoke"):
            server.families.revoke_token(form["token"])
            return _json(200, {})
        token = form["refresh_token"]
        if any(other.token == token for other in server.requests):
            server.faults.append("two requests are under way with one refresh token")
        answer: asyncio.Future[TokenResponse] = asyncio.get_running_loop().create_future()
        server.requests.append(Request(self._name, server, token, self._reachable(), answer))
        return await answer


def _body(pair: Any) -> dict[str, Any]:
    body = {"access_token": pair.access_token, "token_type": "bearer", "expires_in": pair.expires_in}
    return body if pair.refresh_token is None else {**body, "refresh_token": pair.refresh_token}


def _redeemed(kind: str, body: dict[str, Any]) -> TokenResponse:
    match kind:
        case "500 after":
            return _json(500, {})
        case "cut off":
            whole = json.dumps(body).encode()
            return provider_http.Reply(status=200, headers={}, body=whole[: len(whole) // 2], fault="reset")
        case "silent after":
            return Unknown("timeout")
        case "unusable":
            return _json(200, {name: value for name, value in body.items() if name != "access_token"})
        case _:
            return _json(200, body)


def _not_redeemed(kind: str) -> TokenResponse:
    match kind:
        case "refused":
            return NotSent("refused")
        case "503":
            return _json(503, {})
        case "429":
            return provider_http.Reply(status=429, headers={"retry-after": "2"}, body=b"")
        case "500 before":
            return _json(500, {})
        case "silent before":
            return Unknown("timeout")
        case "302":
            return provider_http.Reply(status=302, headers={"location": "https://elsewhere.test"}, body=b"")
        case _:
            return _json(400, {"error": kind})


def _json(status: int, body: dict[str, Any]) -> provider_http.Reply:
    return provider_http.Reply(
        status=status, headers={"content-type": "application/json"}, body=json.dumps(body).encode()
    )
