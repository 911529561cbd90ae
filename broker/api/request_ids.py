"""The id of a request: `X-Request-Id` as the client sent it, or a new one. Knows no route."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import TYPE_CHECKING

from multidict import istr

if TYPE_CHECKING:
    from aiohttp import web

HEADER = istr("X-Request-Id")
_VALID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
"""Of each character of an id: none of them ends a header, a JSON string or a line of a terminal."""
_KEY = "request_id"
_PROCESS = secrets.token_hex(8)
_COUNT = itertools.count(1)
"""New ids are this process's random number and a count: unlike one another, also among replicas, and no secret."""


def request_id(request: web.BaseRequest) -> str:
    """Return the id of *request*: always the same one. An id that could be no id of a log is replaced by a new one."""
    known: str | None = request.get(_KEY)
    if known is None:
        sent = request.headers.get(HEADER, "")
        known = request[_KEY] = sent if sent and _VALID.fullmatch(sent) else f"{_PROCESS}{next(_COUNT):06x}"
    return known


def given_id(request: web.BaseRequest) -> str | None:
    """Return the id that the response gives back: where the client sent one, or where one was used."""
    return request_id(request) if _KEY in request or HEADER in request.headers else None
