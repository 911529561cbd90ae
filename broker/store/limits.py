"""What answers said of the end of a grant, as fields of its hash in Redis.

`reauthorize_by` and `reauthorize_limit` follow from it and from the settings; every answer writes them anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from broker.model import StatedLimits

if TYPE_CHECKING:
    from broker.model import Ending
    from broker.store.redis.connections import Argument

ENDING_FIELDS = ("reauthorize_by", "reauthorize_limit", "stated_limits")


def ending_fields(ending: Ending) -> list[Argument]:
    """Return the end of a grant as fields of its hash, each with its value."""
    fields: list[Argument] = []
    if ending.reauthorize_by is not None:
        by, limit = ending.reauthorize_by, ending.reauthorize_limit or 0
        fields += ["reauthorize_by", by, "reauthorize_limit", f"{limit} {by}"]
    if ending.stated is not None:
        stated = {name: value for name, value in asdict(ending.stated).items() if value is not None}
        fields += ["stated_limits", json.dumps(stated)]
    return fields


def parse_limit(text: str | bytes | None, by: int | None) -> int | None:
    """Parse the length (ms) of the limit that a grant's end comes of.

    Returns:
        None where it is not known, or belongs to another end than *by*: a broker of before writes that one alone.
    """
    limit, _, its_end = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text or "").partition(" ")
    return int(limit) if by is not None and its_end == str(by) and limit.isdecimal() and len(limit) < 20 else None


def parse_stated(text: bytes | None, granted_at: int) -> StatedLimits | None:
    """Parse what was said of a grant's end.

    Returns:
        None where nothing was, or where it belongs to another login than that of *granted_at* (epoch ms): a broker
        that knows nothing of this field leaves it where it is.
    """
    if not text:
        return None
    try:
        stated = StatedLimits(**json.loads(text))
    except (TypeError, ValueError):  # written by a newer broker
        return None
    return stated if stated.granted_at == granted_at else None
