"""Which path a request target means: in absolute form, and below the path of `public_url`. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from broker.settings import Http

_API = re.compile(
    r"/(?:(?:v1|oauth2|page|readyz)/.*|(?:session(?:/end)?|healthz|readyz|metrics|openapi\.json)(?:[?#].*)?)", re.DOTALL
)
_BROWSER = re.compile(r"/(?:login/.*|callback(?:/[^/?#]+)?(?:[?#].*)?)", re.DOTALL)
_STATUS_PAGE = re.compile(r"/(?:[?#].*)?", re.DOTALL)


def public_path(http: Http) -> str:
    """Return the path of `public_url` without its last slash: empty where the broker has a host of its own."""
    return urlsplit(http.public_url).path.rstrip("/")


@lru_cache(4096)
def served_target(target: str, prefix: str) -> str:
    """Return path and query that *target* asks for, as the routes are spelled.

    A proxy may pass the *prefix* on or strip it. It is cut off only before a route, since a path of `public_url` may
    begin like one: under `/login`, a `/login/callback` is the callback, and `/login/TICKET` is a login link.

    Args:
        target: of the request line (RFC 9112 section 3.2).
        prefix: as `public_path` returns it.
    """
    if not target.startswith("/") and "://" in target:  # the absolute form
        _, slash, rest = re.split("([/?#]|$)", target.partition("://")[2], maxsplit=1)
        target = f"{slash if slash == '/' else '/' + slash}{rest}"
    rest = target[len(prefix) :]
    if prefix and target.startswith(prefix) and (is_api(rest) or is_browser(rest) or _STATUS_PAGE.fullmatch(rest)):
        return rest
    return target


def is_api(target: str) -> bool:
    """Return whether programs ask for *target*: every response to it is for them."""
    return _API.fullmatch(target) is not None


def is_browser(target: str) -> bool:
    """Return whether only browsers are sent to *target*: every response to it is a page."""
    return _BROWSER.fullmatch(target) is not None


def wants_page(target: str, accept: str) -> bool:
    """Return whether a person reads the response to *target*, where the request's `Accept` is *accept*."""
    return is_browser(target) or ("text/html" in accept and not is_api(target))
