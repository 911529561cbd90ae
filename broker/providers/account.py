"""Ask a provider which account an access token belongs to, where no id_token says so.

The URL may hold members of the token response (`https://{httpsBaseUrl.hostname}/…`). Whoever controls the response
controls them, so the token goes only to hosts that the settings allow, over https, and a redirect is not followed.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.providers import members
from broker.providers.http import Reply, Request
from broker.providers.id_token import account_from, is_encrypted, read_account
from broker.settings.values import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model import TokenResponse
    from broker.model.account import Account
    from broker.providers.dialects import Dialect
    from broker.providers.endpoint import Endpoint
    from broker.secret import Secret

TIMEOUT = 5.0
"""Seconds for the account call: a person waits, and the tokens are not in the journal yet."""
_MEMBER = re.compile(r"\{([^{}]*)\}")
_MIN_HIDDEN = 8
"""A token shorter than this would hide parts of ordinary names."""
_SAFE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
"""What a member may put into a URL: a host name, a number or an id; no slash, colon or at sign."""


class AccountUnknown(Exception):
    """The provider does not say whose the token is; the message says why."""


def account_in(answer: TokenResponse, dialect: Dialect, now: int) -> Account | None:
    """Return the account that the answer of a code exchange names by itself; None if it names none. Pure.

    Its id_token counts first. Without one, and without `account_endpoint`, `account_member` is a member of the answer.

    Raises:
        ProviderRefused: there is an id_token, and it cannot be accepted.
    """
    tokens = (answer.access_token, answer.refresh_token)
    secrets = tuple(each for each in tokens if each and len(each.reveal()) >= _MIN_HIDDEN)
    if answer.id_token is not None and not is_encrypted(answer.id_token):
        return read_account(answer.id_token, secrets, issuer=dialect.issuer, client_id=dialect.client_id, now=now)
    if dialect.account_endpoint is None and dialect.account_member is not None:
        id_, beside = _find(answer.extra, dialect.account_member)
        return account_from(id_, beside, secrets)
    return None


async def fetch_account(endpoint: Endpoint, answer: TokenResponse) -> Account:
    """Ask the account endpoint of the dialect, once, with the new access token.

    Raises:
        AccountUnknown: it gave no account.
    """
    dialect, token = endpoint.dialect, answer.access_token
    if dialect.account_endpoint is None or token is None:
        raise AccountUnknown("the response has no usable access token")
    url = account_url(dialect.account_endpoint, answer.extra, dialect.account_hosts)
    headers = {"Authorization": f"Bearer {token.reveal()}"}
    reply = await endpoint.http.send(Request(method="GET", url=url, headers=headers), timeout=TIMEOUT)
    if not isinstance(reply, Reply):
        raise AccountUnknown(f"{reply.code} {reply.detail}".strip())
    if reply.status != 200 or reply.body is None:
        raise AccountUnknown(f"HTTP {reply.status}")
    account = _read(
        reply, dialect.account_member or "sub", tuple(each for each in (token, answer.refresh_token) if each)
    )
    if account is None:
        raise AccountUnknown(f"its response has no {dialect.account_member or 'sub'}")
    return account


def _read(reply: Reply, member: str, secrets: tuple[Secret, ...]) -> Account | None:
    try:
        values = members.parse(reply.body or b"", whole=reply.fault is None).values
    except members.Unreadable as unreadable:
        raise AccountUnknown(f"its response is not readable ({unreadable.code})") from None
    id_, beside = _find(values, member)
    return account_from(id_, beside, secrets)


def account_url(template: str, values: Mapping[str, object], hosts: tuple[str, ...]) -> str:
    """Return the URL of the account call. Pure.

    Args:
        template: `account_endpoint`.
        values: the members of the token response.
        hosts: `account_hosts`: patterns of the hosts that may get the token where a member decides about the host.

    Raises:
        AccountUnknown: a member is missing or unfit for a URL, or the host is not allowed.
    """

    def put_in(found: re.Match[str]) -> str:
        value, _ = _find(values, found[1])
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not _SAFE.fullmatch(text) or ".." in text:
            raise AccountUnknown(f"member {found[1]} of the token response cannot stand in account_endpoint")
        return text

    url = _MEMBER.sub(put_in, template)
    parts, fixed = urlsplit(url), not _MEMBER.search(template.split("/")[2])
    host = parts.hostname or ""
    if not fixed and not any(fnmatch.fnmatchcase(host, pattern) for pattern in hosts):
        raise AccountUnknown("the host that the token response names matches no pattern of account_hosts")
    if not fixed and parts.scheme != "https" and host not in LOOPBACK:
        raise AccountUnknown("the token goes to a host that the token response names over https only")
    return url


def _find(values: Mapping[str, object], path: str) -> tuple[object, Mapping[str, object]]:
    """Return the value at a dotted path, and the members beside it; None where there is none."""
    *outer, last = path.split(".")
    for name in outer:
        inner = values.get(name)
        values = inner if isinstance(inner, dict) else {}
    return values.get(last), values
