"""Check what is presented as a refresh token (RFC 6749 appendix A.17: 1*VSCHAR), so that no blank replaces a good one.

Pure. Servers and people alike add line ends, no-break spaces and byte order marks; the appendix allows none of them.
"""

from __future__ import annotations

import re

MAX_LENGTH = 64 * 1024
"""Characters of the longest refresh token that an import accepts."""
_ALLOWED = re.compile(r"[\x20-\x7e]+")
_ENDS = re.compile(
    r"^[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u2060\ufeff]+|[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u2060\ufeff]+$"
)
"""White space, control characters, no-break spaces, zero-width characters and byte order marks at the ends."""


def trim(text: str) -> str:
    """Return *text* without white space, control characters and byte order marks at its ends; "" if nothing is left."""
    return _ENDS.sub("", text)


def problem_of(text: str) -> str | None:
    """Return what forbids *text* as a refresh token that somebody imports, None if nothing does."""
    if not text:
        return "refresh_token is empty or blank: send the refresh token itself"
    if len(text) > MAX_LENGTH:
        return f"refresh_token is longer than {MAX_LENGTH // 1024} KiB: send one refresh token"
    if not _ALLOWED.fullmatch(text):
        return "refresh_token has characters that none may have (RFC 6749 appendix A.17 allows U+0020 to U+007E)"
    return None
