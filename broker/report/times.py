"""Times as people read them: local, and how far away."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo

_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def utc_offset() -> int:
    """Return the minutes by which local time is east of UTC: a broker makes sentences with times of that zone."""
    offset = datetime.now().astimezone().utcoffset()
    return 0 if offset is None else int(offset.total_seconds() // 60)


def span(seconds: float) -> str:
    """Return a duration in its largest unit that fits at least twice: `3 min`."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def clock(at: float, now: float, zone: tzinfo | None = None) -> str:
    """Return a time (epoch seconds) as local time of day, preceded by the date unless it is today's."""
    local, today = (datetime.fromtimestamp(each).astimezone(zone) for each in (at, now))
    return f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"


def moment(at: float, now: float, zone: tzinfo | None = None) -> str:
    """Return a time (epoch seconds) as local time and from now: `14:32:10 (in 3 min)`, `13:02:11 (90 s ago)`."""
    away = at - now
    is_ahead = round(away) > 0  # both are cut to whole seconds: the same second is mostly past
    return f"{clock(at, now, zone)} ({f'in {span(away)}' if is_ahead else f'{span(-away)} ago'})"
