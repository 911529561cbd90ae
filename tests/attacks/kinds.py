"""Requests that are made to cost the broker more than they cost their sender: one function for each kind."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass

LINE = 65_000
"""Bytes of the longest header and request line that the broker reads, less what stands around them."""
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """A route, and the headers that it is asked with."""

    method: str
    path: str
    headers: tuple[str, ...] = ()

    def head(self, *headers: str, path: str = "") -> bytes:
        """Return the head of a request to it."""
        lines = [f"{self.method} {path or self.path} HTTP/1.1", "Host: localhost", *self.headers, *headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def sending(self, body: bytes, *headers: str) -> bytes:
        """Return a whole request with a body of known length."""
        return self.head(f"Content-Length: {len(body)}", *headers) + body


Kind = Callable[[Target], bytes]
BOMB = gzip.compress(bytes(200 * MEGABYTE), 9)
"""200 kB that would be 200 MB."""


def coded(coding: str, body: bytes) -> Kind:
    """A body in a coding."""
    return lambda target: target.sending(body, f"Content-Encoding: {coding}", "Content-Type: application/json")


def body(content: bytes, *headers: str) -> Kind:
    """A body as it is."""
    return lambda target: target.sending(content, *headers)


def header(name: str, value: str) -> Kind:
    """One header, and a small body."""
    return lambda target: target.sending(b"{}", f"{name}: {value}")


def path(tail: str) -> Kind:
    """A longer path or query."""
    return lambda target: target.head(path=target.path + tail)


def chunks(size: int, many: int) -> Kind:
    """A body in chunks."""
    one = b"%x\r\n%s\r\n" % (size, b" " * size)
    return lambda target: target.head("Transfer-Encoding: chunked") + one * many + b"0\r\n\r\n"


def endless_head(target: Target) -> bytes:
    """A head that is over every limit."""
    return target.head()[:-2] + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 2000) for n in range(400))


def many_headers(target: Target) -> bytes:
    """As many header lines as are read."""
    return target.head(*(f"X-{n}: {'y' * 1500}" for n in range(110)))


def upgrade(target: Target) -> bytes:
    """Ends of heads behind an Upgrade, where each is looked at."""
    return target.head("Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked") + b"\r\n\r\n" * 60_000


def pipeline(target: Target) -> bytes:
    """Many requests at once."""
    return target.head() * 1000


def trailers(target: Target) -> bytes:
    """A chunked body with long trailers."""
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(200))
    return target.head("Transfer-Encoding: chunked") + b"1\r\n \r\n0\r\n" + lines + b"\r\n"


_DEEP = b"[" * LINE
_LONG_NUMBER = b'{"provider": ' + b"9" * 60_000 + b"}"
KINDS: dict[str, Kind] = {
    "gzip bomb": coded("gzip", BOMB),
    "gzip twice": coded("gzip, gzip", gzip.compress(BOMB)),
    "deflate": coded("deflate", zlib.compress(bytes(50 * MEGABYTE))),
    "body that nobody reads": body(bytes(2 * MEGABYTE)),
    "deep JSON": body(_DEEP, "Content-Type: application/json"),
    "wide JSON": body(b"[" + b"1," * 32_000 + b"1]"),
    "long number": body(_LONG_NUMBER),
    "many members": body(json.dumps({str(n): 0 for n in range(6_000)}).encode()),
    "escapes": body(b'"' + b"\\u0041" * 10_000 + b'"'),
    "form of 60,000 fields": body(b"a=&" * 21_000, "Content-Type: application/x-www-form-urlencoded"),
    "chunks of one byte": chunks(1, 60_000),
    "chunks beyond the limit": chunks(1000, 2000),
    "trailers": trailers,
    "Content-Type of semicolons": header("Content-Type", "a/b" + ";" * LINE),
    "Content-Type of quotes": header("Content-Type", 'a/b; x="' + '"' * (LINE - 10)),
    "cookies": header("Cookie", "a=b;" * (LINE // 4)),
    "cookie of quotes": header("Cookie", 'a="' + '\\"' * (LINE // 2)),
    "Accept": header("Accept", "text/plain;q=0.5," * (LINE // 18)),
    "Prefer": header("Prefer", "wait  " * (LINE // 6)),
    "If-None-Match": header("If-None-Match", '"1",' * (LINE // 4)),
    "If-Match": header("If-Match", " " * 10 + '"' + "1" * (LINE - 20)),
    "Authorization": header("Authorization", "Basic " + "QUFB" * (LINE // 5)),
    "Forwarded": header("Forwarded", "for=1.2.3.4," * (LINE // 12)),
    "Host": lambda target: target.head().replace(b"localhost", b"a" * LINE),
    "Expect of raw bytes": header("Expect", "\xe9\xff"),
    "Origin of raw bytes": header("Origin", "\xe9" * 1000),
    "many headers": many_headers,
    "head without end": endless_head,
    "path of slashes": path("/" * LINE),
    "path of segments": path("/a" * (LINE // 2)),
    "path of escapes": path("/%2F" * (LINE // 4)),
    "long path": path("/" + "a" * LINE),
    "query of ampersands": path("?" + "a&" * (LINE // 2)),
    "query of pairs": path("?" + "state=b&" * (LINE // 8)),
    "query of providers": path("?" + "".join(f"provider=p{n}&" for n in range(4000))),
    "search": path("?search=" + "a" * LINE),
    "cursor": path("?cursor=" + "A" * LINE),
    "Upgrade and ends of heads": upgrade,
    "pipelined requests": pipeline,
}


def targets(key: str) -> list[Target]:
    """Return routes of every sort on the listener for callers, each with a valid *key* and without one."""
    routes = [
        ("GET", "/v1/grants/g0/token"),
        ("POST", "/v1/grants/g0/refresh"),
        ("POST", "/v1/grants/g0/authorization"),
        ("POST", "/oauth2/token"),
        ("GET", "/v1/grants"),
        ("PUT", "/v1/grants/other"),
        ("POST", "/v1/import"),
        ("POST", "/v1/grants/g0/login"),
        ("POST", "/v1/grants/g0/login/complete"),
        ("GET", "/v1/providers"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/session"),
        ("POST", "/session"),
        ("GET", "/no/such/route"),
        *PUBLIC,
    ]
    return [Target(method, where, headers) for method, where in routes for headers in ((), (f"X-Broker-Key: {key}",))]


PUBLIC = [("GET", "/login/x"), ("GET", "/callback"), ("POST", "/callback"), ("POST", "/nowhere")]
"""Routes of `http.public_listen`."""


def public_targets() -> list[Target]:
    """Return the routes of the listener for browsers, without a key: nobody has one there."""
    return [Target(method, where) for method, where in PUBLIC]
