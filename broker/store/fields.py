"""Read fields of hashes as Redis sends them, where they may be missing. Pure."""

from __future__ import annotations


def maybe_int(value: bytes | str | None) -> int | None:
    """Return a whole number, however it is written; None where there is none."""
    return None if value is None else int(float(value))


def maybe_text(value: bytes | None) -> str | None:
    """Return a text, whatever its bytes; None where there is none."""
    return None if value is None else value.decode("utf-8", "replace")
