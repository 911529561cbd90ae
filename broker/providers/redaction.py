"""How text from a provider is shown: bounded, escaped, and without any secret that the request carried.

Owns the removal of secrets. Pure; other modules decide what is shown where.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.secret import Secret

CUT = "[secret]"
_MARK = "\ue000"
"""Stands for a removed secret until all are removed: one character, so that cutting never lengthens a text."""
MAX_DETAIL = 300
MAX_CODE = 64
_MOST_READ = 8_000
"""Characters of a text that are searched for secrets; a fraction of them is shown."""
_LONGEST_FORM = 5
"""Characters of a byte of a secret that is percent-encoded twice: the longest form that is found."""
_MIN_BASE64 = 8
"""Below so many characters base64 of a secret reveals nothing, but would match ordinary words."""


def without(text: str, secrets: Iterable[Secret]) -> str:
    """Return *text* with every one of *secrets* cut out: verbatim, percent-encoded (once or twice), or in base64.

    Where a secret was percent-encoded the whole text is returned decoded.
    """
    plain = [secret.reveal() for secret in secrets if secret]
    # The longest first: `id:secret` before `secret`.
    forms = sorted({form for text_of in plain for form in (text_of, *_base64_forms(text_of))}, key=len, reverse=True)
    text = _cut(text, forms)
    for decode in (unquote, unquote_plus, lambda twice: unquote(unquote(twice))):
        decoded = decode(text)
        if any(form in decoded for form in forms):
            text = _cut(decoded, forms)
    return text.replace(_MARK, CUT)


def _cut(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        text = text.replace(form, _MARK)
    return text


def detail(text: str, secrets: Iterable[Secret], limit: int = MAX_DETAIL) -> str:
    """Return *text* for people: without *secrets*, control characters escaped, at most *limit* characters."""
    secrets = tuple(secrets)
    # A server may send 256 KiB. A secret that the cut divides is dropped with what may be left of it.
    longest = max((len(secret.reveal().encode("utf-8", "surrogatepass")) for secret in secrets), default=0)
    rest = longest * _LONGEST_FORM
    cut = without(text[: _MOST_READ + rest], secrets)
    if len(text) > _MOST_READ + rest:
        cut = cut[: len(cut) - rest]
    # Bounded once more: escaping may lengthen each character tenfold, and a long text need not be escaped to its end.
    shown = "".join(char if char.isprintable() else _escaped(char) for char in cut[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def code(text: str, secrets: Iterable[Secret]) -> str:
    """Return *text* as an error code: without *secrets*, at most 64 printable ASCII characters; it may be empty."""
    cut = without(text, secrets).strip()[:MAX_CODE]
    return "".join(char if " " <= char <= "~" else "?" for char in cut)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _base64_forms(secret: str) -> Iterator[str]:
    """Yield base64 of *secret* at each place in a longer text: the characters that no neighbour changes."""
    data = secret.encode("utf-8", "surrogatepass")
    for offset, spoilt in ((0, 0), (1, 2), (2, 3)):
        whole = (offset + len(data)) * 8 // 6
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            core = encode(b"\0" * offset + data).decode("ascii")[spoilt:whole]
            if len(core) >= _MIN_BASE64:
                yield core
