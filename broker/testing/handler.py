"""The responses of a fake broker to reads of a token and reports of a 401, as `broker.api.routes.tokens` gives them."""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.testing.fake import FakeBroker
    from broker.testing.grants import FakeGrant

_PATH = re.compile(r"/v1/grants/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/(token|refresh)")
_LONGEST_WAIT = 55.0
_DEFAULT_WAIT = 5.0
_STATUS = {
    "invalid_request": 400,
    "invalid_token": 401,
    "access_denied": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "reauthorization_required": 409,
    "precondition_required": 428,
    "too_fresh": 429,
    "token_unavailable": 503,
}


class ReceivedRequest(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    """With its query."""
    headers: Mapping[str, str]


class _ErrorResponse(Exception):
    """An error response: its code, and what to do about it."""

    def __init__(
        self,
        code: str,
        description: str,
        retry_after: float | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **members: str,
    ) -> None:
        super().__init__(description)
        self.code = code
        self.headers = dict(headers or {})
        self.members = members
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))
        if code == "invalid_token":
            self.headers["WWW-Authenticate"] = 'Bearer realm="token-broker"'


class Handler(BaseHTTPRequestHandler):
    """One connection to a fake broker."""

    protocol_version = "HTTP/1.1"
    server_version = "fake-broker"
    disable_nagle_algorithm = False
    server: Any

    def do_GET(self) -> None:
        """Respond to a read."""
        self._respond()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - http.server looks for these names

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""

    def _respond(self) -> None:
        fake: FakeBroker = self.server.fake
        fake.requests.append(ReceivedRequest(self.command, self.path, dict(self.headers.items())))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        while fake.hanging and fake.is_up(self.server):
            time.sleep(0.01)
        if not fake.is_up(self.server):
            self.close_connection = True
            return
        try:
            grant, status = self._token(fake)
            body = grant.answer() if status == 200 else None
            headers = {"ETag": f'"{grant.generation}"', "Vary": "Accept", **self._applied()}
        except _ErrorResponse as error:
            status, headers = _STATUS[error.code], error.headers
            body = {"error": error.code, "error_description": str(error), **error.members}
        if not fake.is_up(self.server):
            self.close_connection = True
            return
        self._send(status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: dict[str, Any] | None) -> None:
        raw = b"" if body is None else json.dumps(body).encode() + b"\n"
        self.send_response(status)
        for name, value in {"Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _token(self, fake: FakeBroker) -> tuple[FakeGrant, int]:
        """Return the grant whose current token is the response, and the status; raise `_ErrorResponse`."""
        self._check_key(fake)
        parts = urlsplit(self.path)
        match = _PATH.fullmatch(parts.path)
        if match is None:
            raise _ErrorResponse("not_found", "no such route")
        grant_id, what = match.groups()
        if self.command != ("GET" if what == "token" else "POST"):
            allowed = "GET, HEAD" if what == "token" else "POST"
            raise _ErrorResponse("method_not_allowed", f"allowed here: {allowed}", headers={"Allow": allowed})
        grant = fake.grants.get(grant_id)
        if grant is not None and not (grant.readable and (what == "token" or grant.refreshable)):
            raise _ErrorResponse(
                "access_denied", "caller 'fake' has no right on this grant id: see callers in the settings"
            )
        if grant is None:
            raise _ErrorResponse("not_found", "no such grant")
        if what == "refresh":
            return self._refreshed(fake, grant)
        min_ttl = parse_qs(parts.query).get("min_ttl", ["0"])[0]
        return self._read(fake, grant, min_ttl)

    def _check_key(self, fake: FakeBroker) -> None:
        key = self.headers.get("X-Broker-Key")
        if key is None:
            scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
            key = value.strip() if scheme.lower() == "bearer" else None
        if not key:
            raise _ErrorResponse("invalid_token", "no key: send `Authorization: Bearer KEY` or `X-Broker-Key: KEY`")
        if key != fake.key:
            raise _ErrorResponse("invalid_token", "unknown key: make one with `token-broker caller new NAME`")

    def _read(self, fake: FakeBroker, grant: FakeGrant, raw: str) -> tuple[FakeGrant, int]:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", raw):
            raise _ErrorResponse("invalid_request", "min_ttl must be seconds, 0 or more, such as min_ttl=60")
        min_ttl = float(raw)
        if min_ttl and not grant.refreshable:
            raise _ErrorResponse("access_denied", "caller 'fake' has no refresh right on this grant id")
        if min_ttl > grant.lifetime:
            raise _ErrorResponse(
                "invalid_request", f"a refresh of this grant yields {grant.lifetime:.0f} s: ask for less"
            )
        self._ensure_valid(fake, grant, min_ttl)
        condition, wait = self.headers.get("If-None-Match"), self._wait()
        if condition != f'"{grant.generation}"':
            return grant, 200
        generation = grant.generation
        if not wait or not _changes(fake, grant, generation, wait, self.server):
            return grant, 304
        if fake.grants.get(grant.id) is not grant:
            raise _ErrorResponse("not_found", "no such grant")
        self._ensure_valid(fake, grant, 0)
        return grant, 200

    def _ensure_valid(self, fake: FakeBroker, grant: FakeGrant, min_ttl: float) -> None:
        """Refresh a grant whose token expires too soon; wait for that as long as the caller wants."""
        if grant.remaining() > min_ttl:
            return
        wait = self._wait()
        ends = time.monotonic() + (_DEFAULT_WAIT if wait is None else wait)
        while not grant.refresh() and not grant.remaining() > min_ttl:
            if grant.dead:
                raise _dead(fake, grant)
            if time.monotonic() >= ends or not fake.is_up(self.server):
                raise _ErrorResponse("token_unavailable", "there is no valid token now", 5)
            time.sleep(0.01)

    def _refreshed(self, fake: FakeBroker, grant: FakeGrant) -> tuple[FakeGrant, int]:
        condition = self.headers.get("If-Match")
        if condition is None:
            raise _ErrorResponse(
                "precondition_required", 'name the token that got the 401: If-Match: "GENERATION", its ETag'
            )
        match = re.fullmatch(r'\s*(?:W/)?"([0-9]+)"\s*', condition)
        if match is None:
            raise _ErrorResponse("invalid_request", 'If-Match must be one ETag of this server, such as "1764000000000"')
        with fake.changed:  # of many reports of one token one refreshes
            if int(match[1]) == grant.generation or grant.remaining() <= 0:
                if grant.dead:
                    raise _dead(fake, grant)
                if (seconds := grant.too_fresh()) > 0:
                    raise _ErrorResponse("too_fresh", "the token is fresh: the 401 is about something else", seconds)
                if not grant.refresh():
                    raise _ErrorResponse("token_unavailable", "the last refresh failed; the next try is scheduled", 5)
        return grant, 204 if self._minimal() else 200

    def _minimal(self) -> bool:
        return self.command == "POST" and "return=minimal" in (self.headers.get("Prefer") or "")

    def _wait(self) -> float | None:
        match = re.search(r"wait\s*=\s*([0-9]{1,6})", self.headers.get("Prefer") or "")
        return min(float(match[1]), _LONGEST_WAIT) if match else None

    def _applied(self) -> dict[str, str]:
        if self._minimal():
            return {"Preference-Applied": "return=minimal"}
        wait = self._wait()
        return {} if wait is None else {"Preference-Applied": f"wait={wait:g}"}


def _dead(fake: FakeBroker, grant: FakeGrant) -> _ErrorResponse:
    return _ErrorResponse(
        "reauthorization_required",
        f"the provider no longer accepts this grant: log in again with `token-broker login {grant.id}`",
        login_url=f"{fake.url}/#search={grant.id}",
    )


def _changes(fake: FakeBroker, grant: FakeGrant, generation: int, seconds: float, server: object) -> bool:
    """Wait for another generation of *grant*, or its end; return False after *seconds*, or when the broker is down."""
    ends = time.monotonic() + seconds
    with fake.changed:
        while grant.generation == generation and grant.remaining() > 0 and fake.grants.get(grant.id) is grant:
            left = min(ends - time.monotonic(), max(0.01, grant.remaining()))
            if ends <= time.monotonic() or not fake.is_up(server):
                return False
            fake.changed.wait(left)
    return True
