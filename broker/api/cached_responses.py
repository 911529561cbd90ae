"""Answers with or about a token, as bytes: each made once a second however often it is asked for."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import HttpVersion11, web
from aiohttp.http import SERVER_SOFTWARE

from broker.token_answer import token_answer, usable_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.abc import AbstractStreamWriter

    from broker.model import Token

SCOPE = "grant:"
"""In front of a grant id in the scope of RFC 6749."""
_SKEW = 10
"""Seconds by which standard clients hear that a token ends earlier: some use one to its last second, by their clock."""
_MOST = 1024
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may carry (RFC 9110 §5.5)."""


class Content(NamedTuple):
    """Status, headers and body; no body where the status allows none."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None

    def once(self) -> web.Response:
        """An answer to one request."""
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Made(NamedTuple):
    """An answer, what it was made of, and how long it is true (epoch ms)."""

    token: Token
    made_at: int
    good_until: int
    content: Content
    ready: Ready


class Answers:
    """What is said of tokens, by kind: the four that are asked for all the time."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """*clock* gives epoch ms."""
        self.token = Kind(clock, token_content)
        self.unchanged = Kind(clock, unchanged_content)
        self.authorization = Kind(clock, authorization_content)
        self.standard = Kind(clock, standard_content)


class Kind:
    """The last answer of one kind for each token that is asked for, at most `_MOST` of them."""

    def __init__(self, clock: Callable[[], int], content: Callable[[Token, dict[str, Any]], Content]) -> None:
        """*content* makes an answer of a token and the members of its token answer."""
        self._clock = clock
        self._content = content
        self._made: dict[str | tuple[str, float], Made] = {}

    def to(self, request: web.BaseRequest, token: Token, wait: float | None = None) -> web.StreamResponse:
        """The answer to *request*, which may have asked for a *wait* (seconds): long polls that end together share one.

        Raises ValueError where a header would carry control codes.
        """
        now = self._clock()
        key = token.grant_id if wait is None else (token.grant_id, wait)
        made = self._made.get(key)
        if made is None or made.token is not token or not made.made_at <= now < made.good_until:
            made = self._made[key] = self._make(token, now, wait)
        if request.version != HttpVersion11 or not request.keep_alive or request.method == "HEAD":
            return made.content.once()
        return made.ready

    def _make(self, token: Token, now: int, wait: float | None) -> Made:
        status, headers, body = self._content(token, token_answer(token, now))
        content = Content(status, {**headers, **applied(wait)}, body)
        # `expires_in` counts down next when what is left of its second has gone by.
        good_until = now + usable_ms(token, now) % 1000 + 1
        if len(self._made) >= _MOST:
            self._made.clear()
        return Made(token, now, good_until, content, Ready(content))


class Ready(web.StreamResponse):
    """An answer as it goes over a kept HTTP/1.1 connection, sent as often as it is asked for.

    Nothing in it belongs to one request, so one object answers them all.
    """

    def __init__(self, content: Content) -> None:
        super().__init__(status=content.status, headers=content.headers)
        self.content = content
        if content.body is not None:
            self.headers["Content-Length"] = str(len(content.body))
        self.headers["Date"] = formatdate(usegmt=True)
        self.headers["Server"] = SERVER_SOFTWARE
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if any(map(_UNFIT.search, lines)):
            raise ValueError("a header with a control code")
        head = "\r\n".join([f"HTTP/1.1 {self.status} {self.reason}", *lines, "", ""])
        self._wire = head.encode() + (content.body or b"")

    @property
    def keep_alive(self) -> bool:
        """Always: other requests get another answer."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it."""
        if request.transport is None:
            raise ConnectionResetError("the caller is gone")
        request.transport.write(self._wire)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""


def token_content(token: Token, answer: dict[str, Any]) -> Content:
    """The token answer."""
    headers = {"Content-Type": "application/json", **token_headers(token)}
    return Content(200, headers, json.dumps(answer).encode())


def unchanged_content(token: Token, _: dict[str, Any]) -> Content:
    """304: the caller has this token."""
    return Content(304, token_headers(token), None)


def authorization_content(token: Token, _: dict[str, Any]) -> Content:
    """200 without a body: the token as a header that a proxy passes on."""
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    return Content(200, {**bearer, "Cache-Control": "no-store", "ETag": f'"{token.generation}"'}, b"")


def standard_content(token: Token, answer: dict[str, Any]) -> Content:
    """The token answer of RFC 6749 §5.1."""
    headers = {"Content-Type": "application/json", **token_headers(token)}
    return Content(200, headers, json.dumps(standard_answer(answer)).encode())


def standard_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """The members of a token *answer* with `scope` as it was asked for, and the provider's beside it."""
    lead = min(_SKEW, max(0, answer["expires_in"] - 1))
    return {
        **answer,
        **({"provider_scope": answer["scope"]} if "scope" in answer else {}),
        "scope": SCOPE + answer["grant_id"],
        "token_type": "Bearer",
        "expires_in": answer["expires_in"] - lead,
        "expires_at": answer["expires_at"] - lead,
    }


def token_headers(token: Token) -> dict[str, str]:
    """What every answer with or about *token* says of itself."""
    return {"Cache-Control": "no-store", "ETag": f'"{token.generation}"', "Vary": "Accept"}


def applied(wait: float | None) -> dict[str, str]:
    """What an answer says of the wait that was asked for (RFC 7240 §3)."""
    return {} if wait is None else {"Preference-Applied": f"wait={wait:g}"}
