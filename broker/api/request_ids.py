"""The id of a request: `X-Request-Id` as the client sent it, or a new one. Knows no route."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Any

from aiohttp import web
from multidict import istr

HEADER = istr("X-Request-Id")
_VALID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
"""Of each character of an id: none of them ends a header, a JSON string or a line of a terminal."""
_KEY = web.RequestKey("request_id", str)
_PROCESS = secrets.token_hex(8)
_COUNT = itertools.count(1)
"""New ids are this process's random number and a count: unlike one another, also among replicas, and no secret."""


def request_id(request: Any) -> str:
    """Return the id of a request: always the same one. An id that could be no id of a log is replaced by a new one.

    A frequent read has `read_id` for it: to look for a key in a request that lacks it raises an exception inside.
    """
    known: str | None = getattr(request, "read_id", None)
    if known:
        return known
    is_read = known is not None
    known = None if is_read else request.get(_KEY)
    if known is None:
        sent = request.headers.get(HEADER, "")
        known = sent if sent and _VALID.fullmatch(sent) else f"{_PROCESS}{next(_COUNT):06x}"
        if is_read:
            request.read_id = known
        else:
            request[_KEY] = known
    return known


def given_id(request: Any) -> str | None:
    """Return the id that the response to a read gives back: where the client sent one, or where one was used."""
    known: str | None = getattr(request, "read_id", None)
    if known or HEADER in request.headers:
        return request_id(request)
    return None if known is not None else request_id(request)
