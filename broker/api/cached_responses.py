"""Cache token responses; rebuild them when `expires_in` changes (once a second).

Without the cache a read takes 1.90 times the CPU, and without the ready bytes 1.45 times
(`python -m tests.benchmarks.tricks cached-answers raw-answers`).
"""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import HttpVersion11, web

from broker.api.request_ids import HEADER, given_id
from broker.token_answer import token_answer, usable_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.abc import AbstractStreamWriter

    from broker.model import Token

SCOPE = "grant:"
"""Precedes the grant id in the `scope` of a client credentials request (RFC 6749 §4.4.2)."""
COMMON_HEADERS = {"Server": "token-broker", "X-Content-Type-Options": "nosniff"}
"""Headers of every response: the server without its version, and no guessing of media types (WHATWG Fetch §3.5)."""
_SKEW = 10
"""Seconds by which `expires_in` is shortened for OAuth clients: some use a token to its last second by their clock."""
_MAX_ENTRIES = 1024
_ID = HEADER.encode()
_CONTROL_CODE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may carry (RFC 9110 §5.5)."""


def json_body(body: Any) -> bytes:
    """Return *body* as JSON with an end of line, after which the prompt of a terminal begins (RFC 8259 §2 allows it).

    It does not depend on the client: one response serves all of them.
    """
    return json.dumps(body).encode() + b"\n"


class Content(NamedTuple):
    """Status, headers and body; the body is None where the status allows none."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None

    def to_response(self) -> web.Response:
        """Make a response for one request."""
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class _Entry(NamedTuple):
    """A cached response, and when it holds: for this token, from `made_at` until before `good_until` (epoch ms)."""

    token: Token
    made_at: int
    good_until: int
    content: Content
    raw: RawResponse


class CachedResponses:
    """The four caches, one for each kind of frequent response."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """*clock* gives epoch ms."""
        self.token = ResponseCache(clock, token_content)
        self.not_modified = ResponseCache(clock, not_modified_content)
        self.authorization = ResponseCache(clock, authorization_content)
        self.client_credentials = ResponseCache(clock, client_credentials_content)


class ResponseCache:
    """The last response of one kind for each token, at most `_MAX_ENTRIES` of them."""

    def __init__(self, clock: Callable[[], int], content: Callable[[Token, dict[str, Any]], Content]) -> None:
        """*content* makes the response of a token and the members of its token answer."""
        self._clock = clock
        self._content = content
        self._entries: dict[str | tuple[str, float], _Entry] = {}

    def respond(self, request: web.BaseRequest, token: Token, wait: float | None = None) -> web.StreamResponse:
        """Return the response about *token* to *request*.

        Args:
            request: decides how the response is sent, not what it says.
            token: what the response is about.
            wait: seconds that the request preferred to wait: long polls that end together share one response.

        Raises:
            ValueError: a header would carry control codes.
        """
        now = self._clock()
        key = token.grant_id if wait is None else (token.grant_id, wait)
        entry = self._entries.get(key)
        if entry is None or entry.token is not token or not entry.made_at <= now < entry.good_until:
            entry = self._entries[key] = self._make(token, now, wait)
        if request.version != HttpVersion11 or not request.keep_alive or request.method == "HEAD":
            return entry.content.to_response()
        return entry.raw

    def _make(self, token: Token, now: int, wait: float | None) -> _Entry:
        status, headers, body = self._content(token, token_answer(token, now))
        content = Content(status, {**headers, **applied_preference(wait)}, body)
        # `expires_in` counts down as soon as the current second of the remaining life has passed.
        good_until = now + usable_ms(token, now) % 1000 + 1
        if len(self._entries) >= _MAX_ENTRIES:
            self._entries.clear()
        return _Entry(token, now, good_until, content, RawResponse(content))


class RawResponse(web.StreamResponse):
    """A response as the bytes of a kept HTTP/1.1 connection, which may be sent any number of times.

    Nothing in it belongs to one request, so one object serves them all.
    """

    def __init__(self, content: Content) -> None:
        super().__init__(status=content.status, headers=content.headers)
        self.content = content
        if content.body is not None:
            self.headers["Content-Length"] = str(len(content.body))
        self.headers["Date"] = formatdate(usegmt=True)
        self.headers.update(COMMON_HEADERS)
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if any(map(_CONTROL_CODE.search, lines)):
            raise ValueError("a header with a control code")
        head = "\r\n".join([f"HTTP/1.1 {self.status} {self.reason}", *lines, "", ""])
        start, _, rest = head.partition("\r\n")
        self._first, self._rest = f"{start}\r\n".encode(), rest.encode() + (content.body or b"")
        self._bytes = self._first + self._rest

    @property
    def keep_alive(self) -> bool:
        """Always True: `ResponseCache.respond` gives every other connection a plain response."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it, with the id of the request where it has one."""
        if request.transport is None:
            raise ConnectionResetError("the caller has closed the connection")
        known = given_id(request)
        sent = self._bytes if known is None else b"%b%b: %b\r\n%b" % (self._first, _ID, known.encode(), self._rest)
        request.transport.write(sent)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing: `prepare` has sent all."""


def token_content(token: Token, answer: dict[str, Any]) -> Content:
    """Return the token answer as JSON."""
    headers = {"Content-Type": "application/json", **token_headers(token)}
    return Content(200, headers, json_body(answer))


def not_modified_content(token: Token, _: dict[str, Any]) -> Content:
    """Return 304: the caller has this token."""
    return Content(304, token_headers(token), None)


def authorization_content(token: Token, _: dict[str, Any]) -> Content:
    """Return 200 without a body: the token is in a header that a proxy forwards."""
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    return Content(200, {**bearer, "Cache-Control": "no-store", "ETag": f'"{token.generation}"'}, b"")


def client_credentials_content(token: Token, answer: dict[str, Any]) -> Content:
    """Return the response to a client credentials request (RFC 6749 §5.1)."""
    headers = {"Content-Type": "application/json", **token_headers(token)}
    return Content(200, headers, json_body(client_credentials_answer(answer)))


def client_credentials_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a token *answer* with the requested `scope`; the provider's is `provider_scope`."""
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
    """Return the headers of every response about *token*."""
    return {"Cache-Control": "no-store", "ETag": f'"{token.generation}"', "Vary": "Accept"}


def applied_preference(wait: float | None) -> dict[str, str]:
    """Return the header that confirms the preferred *wait* in seconds (RFC 7240 §3)."""
    return {} if wait is None else {"Preference-Applied": f"wait={wait:g}"}
