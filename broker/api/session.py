"""The status page's sign-in: a sealed cookie that stands for a caller, and nothing of their key.

Pure but for the sealer's randomness; knows nothing of routes' handlers. Without state on the server, so any replica
that has the sealing keys takes it. It ends by itself, and with the caller or their key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.errors import NotAllowed, UnknownKey
from broker.secret import CannotOpen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.api.callers import Caller, Callers
    from broker.secret import Sealer

LIFE_S = 8 * 3600
"""Seconds a sign-in lasts: a shift."""
PROOF = "X-Broker-Page"
"""The header that only our page can send: one of another origin would need our leave (CORS), and gets none."""
_LONGEST = 2048

ROUTES = frozenset(
    {
        ("GET", "/v1/grants"),
        ("GET", "/v1/grants/{id}"),
        ("GET", "/v1/grants/{id}/attempts"),
        ("POST", "/v1/grants/{id}/refresh"),
        ("POST", "/v1/grants/{id}/retry"),
        ("POST", "/v1/grants/{id}/login"),
        ("GET", "/v1/grants/{id}/login/{ticket}"),
        ("DELETE", "/v1/grants/{id}"),
        ("GET", "/v1/providers"),
        ("POST", "/v1/providers/{name}/retry"),
    }
)
"""All that the cookie opens: what the page uses. No answer to it carries a token."""


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in."""

    caller: Caller
    ends_at: int
    """Epoch ms."""


def cookie_name(public_url: str) -> str:
    """The cookie's name. Cookies ignore ports, so brokers on one host need names of their own.

    Over https browsers hold a `__Host-` cookie to Secure, to this very host and to the path `/`.
    """
    name = f"token_broker_{hashlib.sha256(public_url.rstrip('/').encode()).hexdigest()[:8]}"
    return f"__Host-{name}" if public_url.startswith("https://") else name


def seal(sealer: Sealer, caller: Caller, digest: str, ends_at: int) -> str:
    """The cookie's value for *caller*, whose key has this *digest*, until *ends_at* (epoch ms)."""
    plain = json.dumps({"caller": caller.name, "digest": digest, "ends_at": ends_at})
    return base64.urlsafe_b64encode(sealer.seal(plain, "session")).decode().rstrip("=")


def open_(sealer: Sealer, callers: Callers, value: str, now: int) -> Session | None:
    """Whose session *value* is at *now* (epoch ms). None: not ours, over, or its caller or their key is gone."""
    if len(value) > _LONGEST:
        return None
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        held = json.loads(sealer.open(raw, "session"))
        name, digest, ends_at = held["caller"], held["digest"], held["ends_at"]
    except (ValueError, KeyError, CannotOpen):
        return None
    caller = callers.find_by_digest(digest)
    if caller is None or caller.name != name or ends_at <= now:
        return None
    return Session(caller, ends_at)


def has_key(headers: Mapping[str, str]) -> bool:
    """Whether a request brings a key of its own, which then decides alone. A proxy's `Basic` is none."""
    return "X-Broker-Key" in headers or headers.get("Authorization", "").strip().lower().startswith("bearer")


def require_page(method: str, headers: Mapping[str, str], public_url: str) -> None:
    """Raise `NotAllowed` unless our own page sent this: a browser adds the cookie to others' requests too.

    What changes something must also say where it comes from: by `Sec-Fetch-Site`, or, where browsers leave that out
    (plain http beyond loopback), by `Origin`.
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        ours = site == "same-origin"
    elif origin is not None:
        ours = origin in {_origin(public_url), f"http://{headers.get('Host')}", f"https://{headers.get('Host')}"}
    else:
        ours = method in {"GET", "HEAD"}
    if PROOF not in headers or not ours:
        raise NotAllowed("a signed-in browser is heard from the status page alone: programs send a key")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def session_over() -> UnknownKey:
    """What is said to a cookie that opens nothing any more."""
    return UnknownKey("signed out: the session is over, or its caller or key was changed. Sign in again")
