"""Placeholders: values that stand for one to fill in, as examples, templates and `token-broker init` write them. Pure.

One list. A value that a provider may have issued must never be on it: the patterns match whole values, and characters
that RFC 6749 (appendix A) or RFC 3986 does not allow in such a value at all. A message never holds the value.
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

_CURES: Final = {
    "client_id": "write the client id that the provider shows for this registration",
    "client_secret": "write the client secret that the provider shows for this registration",
}
_MARKS: Final = {
    'holds "…"': re.compile(r"…+|\.{3,}"),
    "stands in angle brackets": re.compile(r"<[A-Za-z][A-Za-z _.-]{0,60}>"),
    "is a variable that was not expanded": re.compile(
        r"\$\{[^{}]+\}|\$\([^()]+\)|\$[A-Z][A-Z0-9_]{2,}|%[A-Z][A-Z0-9_]{2,}%|\{\{[^{}]*\}\}"
    ),
}
"""What no value is made of as a whole, whatever it is for."""

_NOUN = "(?:oauth2?|oidc|app|application|api|client|consumer|tenant|realm|organi[sz]ation|okta|auth0|keycloak|issuer)"
_END = "(?:ids?|secrets?|key|password|token|credentials?)"
_VERB = "(?:insert|enter|paste|put|add|type|replacewith|replaceby|replacethiswith)"
_WORDS: Final = re.compile(
    "changeme|changeit|changethis|replaceme|replacethis|replacewithyourown|fillmein|placeholder"
    f"|{_VERB}?your(?:{_NOUN}+{_END}|secret|password)(?:here)?"
    f"|{_VERB}?(?:the|my)?{_NOUN}*{_END}here"
    f"|replace(?:with|by)(?:the|my)?{_NOUN}*{_END}"
)
"""Matched against the letters and digits of a value that has no other characters than these, blanks, `_`, `-`, `.`."""
_NAMES: Final = re.compile(r"CLIENT[_-]?(?:ID|SECRET)|TODO|FIXME|TBD|[Xx]{3,}(?:-[Xx]{3,})*|[*•●?]{3,}")
"""Names in capitals, and masks."""

_NOT_IN_URLS: Final = re.compile(r"[…<>]|\$[{(]|\{\{")
_PART_OF_URL: Final = re.compile(
    r"your[_-](?:own[_-])?(?:sub)?(?:domain|tenant|realm|company|org|organi[sz]ation|host|server|instance)"
    r"(?:[_-](?:id|name))?",
    re.IGNORECASE,
)
_RESERVED: Final = re.compile(r"(?:(?:.+\.)?example\.(?:com|net|org)|.+\.example)\.?", re.IGNORECASE)
"""Names that RFC 2606 reserves for examples."""

Use = Literal["issued", "endpoint", "other"]
"""What a value is for: issued by the provider (client id, secret: printable ASCII, RFC 6749 A.1, A.2), a URL that the
broker or a browser opens, or anything else, which may be a text in any words."""


def why_placeholder(text: str, use: Use) -> str | None:
    """Return what makes *text* a placeholder, as the end of "it …"; None where it is a value."""
    text = text.strip()
    found = next((words for words, pattern in _MARKS.items() if pattern.fullmatch(text)), None)
    if found is None and text.startswith(("https://", "http://")):
        found = _why_placeholder_url(text, use)
    if found is None and use == "issued":
        bare = re.sub(r"[ _.-]+", "", text)
        if "…" in text:
            found = 'holds "…"'
        elif _NAMES.fullmatch(text) or (bare.isalnum() and _WORDS.fullmatch(bare.lower())):
            found = "consists of the words of an example"
    return found


def _why_placeholder_url(url: str, use: Use) -> str | None:
    if _NOT_IN_URLS.search(url):
        return "has a part to fill in"
    if use == "other":  # the name of an API may be such a URL, which nobody opens
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.strip("."):
        return "has no host"
    if _RESERVED.fullmatch(host):
        return "has a host that is reserved for examples (RFC 2606)"
    if any(_PART_OF_URL.fullmatch(part) for part in (*host.split("."), *parts.path.split("/"))):
        return "has a part to fill in"
    return None


def why_no_secret(text: str, use: Use) -> str | None:
    """Return why *text*, a file without its last line end, is no secret, as the end of "FILE …"; None if it is one."""
    if not text.strip():
        return "is empty"
    if lines := text.count("\n") or text.count("\r"):
        return f"has {lines + 1} lines, where a secret has one"
    why = why_placeholder(text, use)
    return f"holds a placeholder (it {why})" if why else None


def require_values(key: str, value: object) -> None:
    """Check a setting of a provider.

    Raises:
        ValueError: *value* is a placeholder, or holds one. The message completes "KEY: …", and does not show it.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and (why := why_placeholder(inner, "other")):
                raise ValueError(f"{name} is a placeholder (it {why}): write its value, or remove it")
        return
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value) if value is not None else ""
    use: Use = "issued" if key in _CURES else "endpoint" if key == "issuer" or key.endswith("_endpoint") else "other"
    if why := why_placeholder(text, use):
        cure = _CURES.get(key, "write the URL of the server" if use == "endpoint" else "write its value, or remove it")
        raise ValueError(f"is a placeholder (it {why}): {cure}")
