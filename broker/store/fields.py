"""Read fields of hashes as Redis sends them, where they may be missing. Pure."""

from __future__ import annotations

from contextlib import suppress

LATEST = 253_402_300_799_999
"""The last ms that a date can say (year 9999): a time beyond it was not written by a broker."""


def maybe_int(value: bytes | str | int | None) -> int | None:
    """Return a whole number, however it is written; None where there is none, or what no broker writes."""
    with suppress(ValueError, OverflowError):
        found = None if value is None else int(float(value))
        return found if found is None or -LATEST <= found <= LATEST else None
    return None


def whole(text: str) -> int:
    """Return a whole number that may be a time.

    Raises:
        ValueError: it is none.
    """
    found = int(text)
    if not -LATEST <= found <= LATEST:
        raise ValueError("no time")
    return found


def score_ms(score: str | bytes | float) -> int:
    """Return the score of a sorted set as epoch ms; an infinite one, which no broker writes, counts as the last."""
    return int(max(-LATEST, min(LATEST, float(score))))


def texts(found: list[bytes]) -> list[str]:
    """Return the members of a set of grant ids, without those that are no text: no grant has such an id."""
    return [name.decode() for name in found if _is_text(name)]


def scored(flat: list[bytes]) -> list[tuple[str, str]]:
    """Return the members of a sorted set with their scores, likewise, of a flat list as Redis sends it."""
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [(name.decode(), at.decode()) for name, at in pairs if _is_text(name)]


def _is_text(name: bytes) -> bool:
    return name.isascii()


def maybe_text(value: bytes | None) -> str | None:
    """Return a text, whatever its bytes; None where there is none."""
    return None if value is None else value.decode("utf-8", "replace")
