"""What a response of a token endpoint means (RFC 6749 §5): from status, headers and body to an `Outcome`.

Owns how a response becomes an outcome; the table of refusals is `refusal`'s. Pure: no I/O, and `now` is given. It
knows nothing of how the response was fetched beyond whether it is complete, and no outcome holds a secret that the
request carried.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_never

from broker.model import (
    Answered,
    Busy,
    InvalidClient,
    InvalidGrant,
    Outcome,
    Rejected,
    TokenResponse,
    Unknown,
    slotted,
)
from broker.providers import extra_members, lifetimes, members, redaction, refresh_token, refusal
from broker.providers.members import TEN_YEARS_MS, Members, Unreadable
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.providers.dialects import Dialect

_DESCRIPTIONS = ("error_description", "message", "detail", "title")
_NESTED_CODES = ("code", "error", "type", "status")

_USABLE = re.compile(r"[\x21-\x7e\xa1-\xff]+")
"""What `Authorization: Bearer …` may hold: Latin-1 without spaces and control characters."""
_TOKEN_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_NOT_IN_SCOPES = re.compile(r"[^ \x21\x23-\x5b\x5d-\x7e]")
_MAX_WARNED = 8
"""Repeated members that are warned of."""


@slotted
class _Reply:
    """A response half read: its members, if it had any, and what is needed to judge them."""

    status: int
    headers: Mapping[str, str]
    found: Members | None
    dialect: Dialect
    now: int
    issued_at: int | None
    secrets: tuple[Secret, ...]
    text: str = ""
    """The body where that is plain text, and neither JSON, a form nor a page."""

    @property
    def values(self) -> Mapping[str, object]:
        """The members; empty if none could be read."""
        return {} if self.found is None else self.found.values

    def field(self, name: str) -> str | None:
        """Return a header field by its lower-case name, repeated ones joined (RFC 9110 §5.3)."""
        return ", ".join([value for given, value in self.headers.items() if given.lower() == name]) or None

    def read_server_clock(self) -> int:
        """Return the server's time of issue (epoch ms), by its Date: its points in time are relative to it.

        Without a Date it is this host's, and so counts from where a span counts.
        """
        date = members.date_ms(self.field("date"))
        if date is not None:
            return date
        return self.now if self.issued_at is None else self.issued_at

    @property
    def retry_after_ms(self) -> int | None:
        """How long the server asks to wait, within bounds."""
        date = members.date_ms(self.field("date"))
        return members.retry_after_ms(self.field("retry-after"), self.now if date is None else date)


def read(
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    dialect: Dialect,
    now: int,
    sent: Iterable[Secret],
    fault: str | None = None,
    issued_at: int | None = None,
) -> Outcome:
    """Return what the response means.

    Args:
        status: of the response.
        headers: of the response.
        body: None: it exists, but cannot be read; *fault* says why (default `oversized`).
        dialect: of the provider.
        now: when the response arrived (epoch ms).
        sent: every secret that the request carried.
        fault: of a *body* that was cut off: complete JSON still counts, else its meaning is unknown.
        issued_at: when its token was issued at the earliest (epoch ms); None: when it arrived.
    """
    found, flaw = None, fault or "oversized"
    if body is not None:
        try:
            found = members.parse(body, whole=fault is None)
        except Unreadable as unreadable:
            flaw = fault or unreadable.code
    text = _plain_text(body) if found is None and body is not None and fault is None else ""
    reply = _Reply(
        status, headers, found, dialect=dialect, now=now, issued_at=issued_at, secrets=tuple(sent), text=text
    )
    if 200 <= status <= 299:  # RFC 9110 §15.3
        if reply.found is not None:
            return _success(reply)
        return _error(reply) if _is_refusal(reply) else Unknown(flaw, _describe(reply, body))
    cut_off = body is not None and fault is not None and reply.found is None
    return _cut_error(reply, flaw) if cut_off else _error(reply)


def _cut_error(reply: _Reply, fault: str) -> Outcome:
    """Judge an error whose body was cut off: some statuses are clear by themselves, the rest is unknown."""
    if reply.status in refusal.BUSY_STATUSES:
        return Busy(f"http_{reply.status}", f"response cut off: {fault}", reply.retry_after_ms)
    if 300 <= reply.status <= 399:  # RFC 9110 §15.4
        return _error(reply)
    return Unknown(fault, f"HTTP {reply.status}, its body cut off")


def _error(reply: _Reply) -> Outcome:
    status = reply.status
    if 300 <= status <= 399:  # RFC 9110 §15.4
        # No Location: it may carry a session or a token.
        return Rejected(f"http_{status}", "a redirect, not followed")
    verdict = _judge(reply)
    code = verdict.code or _code(reply.values)
    shown = redaction.code(code, reply.secrets) or f"http_{status}"
    detail = _detail(reply) or _describe(reply)
    if verdict.kind == "busy":
        return Busy(shown, detail, reply.retry_after_ms)
    if status < 200 or status > 499:  # neither a success nor the client's error
        return Unknown(f"http_{status}", redaction.detail(f"{shown}: {detail}" if code else detail, ()))
    match verdict.kind:
        case "dead" | "dead_status":
            return InvalidGrant(shown, detail, sure=verdict.kind == "dead")
        case "registration" | "unauthorized":
            return InvalidClient(shown, detail, sure=verdict.kind == "registration")
        case "rejected":
            return Rejected(shown, detail)
    assert_never(verdict.kind)


def _judge(reply: _Reply) -> refusal.Verdict:
    """Judge a refusal by everything in it but the secrets that it repeats."""
    found = refusal.find(reply.values, reply.text)
    texts = tuple(redaction.without(text, reply.secrets) for text in found.texts)
    return refusal.judge(reply.status, found._replace(texts=texts), reply.dialect)


def _is_refusal(reply: _Reply) -> bool:
    """Return whether a response without tokens refuses something, whatever its status says."""
    return bool(reply.values.get("error")) or _judge(reply).kind != "rejected"


def _plain_text(body: bytes) -> str:
    """Return a body as text; "" for a page: what a firewall or a proxy says in HTML is no verdict."""
    text = body.decode(errors="replace").strip()
    return "" if text.startswith("<") else text


def _success(reply: _Reply) -> Outcome:
    secrets, warnings = reply.secrets, list[str]()
    values = extra_members.lift(reply.values, reply.dialect.response_path, warnings)
    repeated = () if reply.found is None else reply.found.repeated[:_MAX_WARNED]
    warnings += [f"{redaction.code(name, secrets)} occurs twice: the last one counts" for name in repeated]
    access, problem = _access_token(values.get("access_token"))
    if reply.found is not None and reply.found.odd_bytes:
        warnings.append("the response is not UTF-8: its tokens are kept byte for byte")
    refresh = _refresh_token(values.get("refresh_token"), warnings)
    if access is None:
        # A refresh token that only repeats the request's is no loss; any other may be the only one that still works.
        if (refresh is None or refresh in secrets) and _is_refusal(reply):
            return _error(reply)
        if refresh is None:
            return Unknown("unusable_access_token" if values.get("access_token") else "no_access_token", problem)
    if values.get("error"):
        code = redaction.code(_code(values), secrets) or "an error"
        warnings.append(f"the response holds tokens together with {code}: the tokens count")
    life = lifetimes.of_access_token(values, reply.dialect, reply.read_server_clock, warnings)
    grant_life = lifetimes.of_grant(values, reply.read_server_clock, warnings)
    warnings += lifetimes.passed_over(values, reply.dialect, secrets)
    answer = TokenResponse(
        access_token=access,
        refresh_token=refresh,
        token_type=_token_type(values.get("token_type"), warnings),
        lifetime_ms=life.ms,
        refresh_in_ms=_refresh_in_ms(values.get("refresh_in"), warnings),
        scope=_scope(values.get("scope")),
        extra=extra_members.of_answer(values, secrets if refresh is None else (*secrets, refresh)),
        warnings=tuple(warnings),
        problem=problem if access is None else None,
        ended=life.ended,
        grant_life=grant_life,
        id_token=Secret(id_token) if isinstance(id_token := values.get("id_token"), str) and id_token else None,
        issued_at=reply.issued_at,
    )
    return Answered(answer)


def _access_token(value: object) -> tuple[Secret | None, str]:
    """Return the access token, or what is wrong with it."""
    if value is None or value == "":
        return None, "the response has no access_token"
    if not isinstance(value, str):
        return None, "access_token is not a string"
    if not _USABLE.fullmatch(value):
        return None, "access_token has characters that no Authorization header may hold"
    return Secret(value), ""


def _refresh_token(value: object, warnings: list[str]) -> Secret | None:
    if isinstance(value, str) and value:
        trimmed = refresh_token.clean(value)
        if not trimmed:
            warnings.append("refresh_token is blank: the old one is kept")
        elif trimmed != value:
            warnings.append("refresh_token has white space or control characters at its ends: kept without them")
        return Secret(trimmed) if trimmed else None
    if value is not None and value != "":
        warnings.append("refresh_token is not a string: the old one is kept")
    return None


def _token_type(value: object, warnings: list[str]) -> str:
    if not isinstance(value, str) or not value:
        return "Bearer"
    if not _TOKEN_TYPE.fullmatch(value):
        warnings.append("token_type is not an authentication scheme: read as Bearer")
        return "Bearer"
    return value


def _scope(value: object) -> str | None:
    """Return the scope as RFC 6749 §3.3 has it: its characters, single spaces between, whatever the server sent."""
    if isinstance(value, list):
        value = " ".join(item for item in value if isinstance(item, str))
    if not isinstance(value, str):
        return None
    return " ".join(_NOT_IN_SCOPES.sub("", " ".join(value.split())).split()) or None


def _refresh_in_ms(value: object, warnings: list[str]) -> int | None:
    if value is None:
        return None
    seconds = members.number(value)
    if seconds is None or not 0 < seconds * 1_000 <= TEN_YEARS_MS:
        warnings.append("refresh_in is not a plausible number of seconds")
        return None
    return int(seconds * 1_000) or None


def _code(values: Mapping[str, object]) -> str:
    """Return the error code that is shown where none decided (RFC 6749 §5.2); "" if there is none."""
    error = values.get("error")
    if isinstance(error, str):
        return error.strip()
    if isinstance(error, dict):
        return next((text for name in _NESTED_CODES if isinstance(text := error.get(name), str)), "")
    if isinstance(error, list):
        return next((text for text in error if isinstance(text, str)), "")
    return ""


def _detail(reply: _Reply) -> str:
    nested = reply.values.get("error") or reply.values.get("errors")
    if isinstance(nested, list):
        nested = next((item for item in nested if isinstance(item, dict)), None)
    for source in (reply.values, nested if isinstance(nested, dict) else {}):
        for name in _DESCRIPTIONS:
            if isinstance(text := source.get(name), str) and text:
                return redaction.detail(text, reply.secrets)
    return ""


def _describe(reply: _Reply, body: bytes | None = None) -> str:
    """Describe a response without words: status, type and size."""
    kind = reply.field("content-type") or "no Content-Type"
    size = "" if body is None else f", {len(body)} bytes"
    return redaction.detail(f"HTTP {reply.status}, {kind[:100]}{size}", reply.secrets)
