"""Check what is presented as a refresh token (RFC 6749 appendix A.17: 1*VSCHAR), so that no blank replaces a good one.

Pure. Servers and people alike add line ends, no-break spaces and byte order marks; the appendix allows none of them.
"""

from __future__ import annotations

import re

MAX_LENGTH = 64 * 1024
"""Characters of the longest refresh token that an import accepts."""
_ALLOWED = re.compile(r"[\x20-\x7e]+")
_BLANK = (
    "".join(
        chr(code)
        for code in (*range(0x21), *range(0x7F, 0xA1), 0x1680, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F, 0x205F)
    )
    + "\u2060\u3000\ufeff"
)
"""White space, control characters, no-break and zero-width spaces, and the byte order mark."""


def trim(text: str) -> str:
    """Return *text* without blank and control characters at its ends; "" if nothing is left. Linear in its length."""
    return text.strip(_BLANK)


def clean(text: str) -> str:
    """Return a refresh token as a server sent it: as it is if RFC 6749 allows it, else trimmed; "" if it is blank."""
    return text if _ALLOWED.fullmatch(text) and not text.isspace() else trim(text)


def problem_of(text: str) -> str | None:
    """Return what forbids *text* as a refresh token that somebody imports, None if nothing does."""
    if not text:
        return "refresh_token is empty or blank: send the refresh token itself"
    if len(text) > MAX_LENGTH:
        return f"refresh_token is longer than {MAX_LENGTH // 1024} KiB: send one refresh token"
    if not _ALLOWED.fullmatch(text):
        return "refresh_token has characters that none may have (RFC 6749 appendix A.17 allows U+0020 to U+007E)"
    return None
