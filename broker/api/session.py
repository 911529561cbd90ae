"""The status page's session: a sealed cookie that stands for a caller, and does not hold their key.

Pure but for the sealer's randomness; knows no handler. The server keeps no state, so every replica with the sealing
keys accepts the cookie. A session ends after `LIFE_S`, and when its caller or their key is removed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.errors import NotAllowed, UnknownKey
from broker.secret import CannotOpen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multidict import MultiMapping

    from broker.api.callers import Caller, Callers
    from broker.secret import Sealer

LIFE_S = 8 * 3600
"""Seconds that a session lasts: a working day."""
PROOF = "X-Broker-Page"
"""The header that only the status page can send: a page of another origin needs CORS for it, and gets none."""
_LONGEST = 2048

ROUTES = frozenset(
    {
        ("GET", "/v1/grants"),
        ("GET", "/v1/grants/{id}"),
        ("GET", "/v1/grants/{id}/attempts"),
        ("GET", "/v1/grants/{id}/explanation"),
        ("POST", "/v1/grants/{id}/refresh"),
        ("POST", "/v1/grants/{id}/retry"),
        ("POST", "/v1/grants/{id}/login"),
        ("GET", "/v1/grants/{id}/login/{ticket}"),
        ("POST", "/v1/grants/{id}/login/{ticket}/replace"),
        ("DELETE", "/v1/grants/{id}"),
        ("GET", "/v1/verdict"),
        ("GET", "/v1/providers"),
        ("GET", "/v1/history"),
        ("GET", "/v1/events"),
        ("POST", "/v1/providers/{name}/retry"),
    }
)
"""All that the cookie gives access to: what the page uses. No response to it carries a token."""


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in."""

    caller: Caller
    ends_at: int
    """Epoch ms."""


def cookie_name(public_url: str) -> str:
    """Return the cookie's name, which differs between brokers on one host, since cookies ignore ports.

    Over https, browsers accept a `__Host-` cookie only with Secure, for this very host and for the path `/`, and a
    `__Secure-` cookie only with Secure.
    """
    name = f"token_broker_{hashlib.sha256(public_url.rstrip('/').encode()).hexdigest()[:8]}"
    if not public_url.startswith("https://"):
        return name
    return f"__Host-{name}" if cookie_path(public_url) == "/" else f"__Secure-{name}"


def cookie_path(public_url: str) -> str:
    """Return the cookie's path: other services of the host are not sent it."""
    return urlsplit(public_url).path.rstrip("/") or "/"


def cookies(headers: MultiMapping[str], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the cookies whose name begins with *prefix*, of a browser that got them here: their values have no quotes.

    aiohttp parses all that a request sends, which for 64 KiB takes as long as a thousand reads.
    """
    one = re.compile(rf"(?:^|;)[ \t]*({re.escape(prefix)}[^=;]*)=([^;]*)")
    for line in headers.getall("Cookie", ()):
        for found in one.finditer(line):
            yield found[1], found[2].strip()


def cookie(headers: MultiMapping[str], name: str) -> str | None:
    """Return the value of one cookie; None where it is missing."""
    return next((value for found, value in cookies(headers, name) if found == name), None)


def seal(sealer: Sealer, caller: Caller, digest: str, ends_at: int) -> str:
    """Return the cookie's value for *caller*, whose key has this *digest*, until *ends_at* (epoch ms)."""
    plain = json.dumps({"caller": caller.name, "digest": digest, "ends_at": ends_at})
    return base64.urlsafe_b64encode(sealer.seal(plain, "session", purpose="session")).decode().rstrip("=")


def open_(sealer: Sealer, callers: Callers, value: str, now: int) -> Session | None:
    """Return the session in the cookie *value* at *now* (epoch ms).

    Returns:
        None where this broker did not seal it, where it is over, or where its caller or their key was removed.
    """
    if len(value) > _LONGEST:
        return None
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        held = json.loads(sealer.open(raw, "session", purpose="session"))
        name, digest, ends_at = held["caller"], held["digest"], held["ends_at"]
    except (ValueError, KeyError, CannotOpen):
        return None
    caller = callers.find_by_digest(digest)
    if caller is None or caller.name != name or ends_at <= now:
        return None
    return Session(caller, ends_at)


def has_key(headers: Mapping[str, str]) -> bool:
    """Return whether a request carries a key, which then decides alone. A proxy's `Basic` is none."""
    return "X-Broker-Key" in headers or headers.get("Authorization", "").strip().lower().startswith("bearer")


def require_page(method: str, headers: Mapping[str, str], public_url: str) -> None:
    """Require that the status page itself sent a request: a browser adds the cookie to other pages' requests too.

    A request that changes something must also name its origin: by `Sec-Fetch-Site`, or, where browsers leave that out
    (plain http beyond loopback), by `Origin`.

    Raises:
        NotAllowed: another page, or no page, sent it.
    """
    same_origin = is_same_origin(headers, public_url)
    if same_origin is None:
        same_origin = method in {"GET", "HEAD"}
    if PROOF not in headers or not same_origin:
        raise NotAllowed("a session works on the status page only: programs send a key", denied="other_page")


def is_same_origin(headers: Mapping[str, str], public_url: str) -> bool | None:
    """Return whether a page of this broker sent a request; None where the headers do not say."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        return site == "same-origin"
    if origin is None:
        return None
    return origin in {_origin(public_url), f"http://{headers.get('Host')}", f"https://{headers.get('Host')}"}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def session_over() -> UnknownKey:
    """Make the error for a cookie whose session is over."""
    return UnknownKey("the session is over, or its caller or key was changed: sign in again", denied="session_over")
