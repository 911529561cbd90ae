"""The cursor of a listing of grants: the set, score and id behind which the next page begins. Pure."""

from __future__ import annotations

import re

from broker.errors import InvalidRequest
from broker.model import GRANT_ID

FOREIGN_CURSOR = "unknown cursor: take it from `next` of the page before"
_CURSOR = re.compile(
    rf"([0-9]{{1,9}})~(-?[0-9]{{1,20}}(?:\.[0-9]{{1,20}})?(?:e[+-]?[0-9]{{1,2}})?)~({GRANT_ID.pattern})"
)


def write_cursor(last: tuple[int, str, str] | None) -> str | None:
    """Return the cursor behind *last* (index of the set, id, score); None at the beginning."""
    return None if last is None else f"{last[0]}~{last[1]}~{last[2]}"


def read_cursor(cursor: str | None) -> tuple[int, str, str]:
    """Return what a cursor says.

    Raises:
        InvalidRequest: It is of no page.
    """
    if cursor is None:
        return 0, "-inf", ""
    read = _CURSOR.fullmatch(cursor)
    if read is None:
        raise InvalidRequest(FOREIGN_CURSOR)
    return int(read[1]), read[2], read[3]
