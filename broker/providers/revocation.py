"""Revoke a grant at its provider: RFC 7009, or CameraManager's logout.

Owns the form of that request and the reading of its response. A success proves little (revoking a spent refresh
token leaves the current one alive), so whoever calls this holds the lease and passes the current token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.errors import InvalidSettings
from broker.model import Answered, NotSent, Unknown
from broker.providers import members, token_response
from broker.providers.endpoint import NO_ENDPOINT
from broker.providers.http import Reply, Request

if TYPE_CHECKING:
    from broker.providers.endpoint import Endpoint
    from broker.secret import Secret


@dataclass(frozen=True, slots=True)
class Revocation:
    """The result of a revocation; `code` and `detail` say why it failed."""

    result: Literal["revoked", "not_supported", "failed"]
    code: str = ""
    detail: str = ""


async def revoke(
    endpoint: Endpoint,
    *,
    access_token: Secret | None,
    refresh_token: Secret,
    timeout: float,
) -> Revocation:
    """Revoke the grant at its provider, once. Never raises except `CancelledError`.

    Args:
        endpoint: of the provider.
        access_token: where the dialect has a logout endpoint it must be valid: refresh first if it is not.
        refresh_token: the current one.
        timeout: in seconds.
    """
    if endpoint.dialect.logout_endpoint is not None:
        return await _log_out(endpoint, access_token, refresh_token, timeout)
    form = {"token": refresh_token.reveal(), "token_type_hint": "refresh_token"}
    reply, sent = await endpoint.post(form, (refresh_token,), timeout=timeout, revocation=True)
    if reply == NO_ENDPOINT:
        return Revocation("not_supported")
    return _read(endpoint, reply, sent)


async def _log_out(
    endpoint: Endpoint, access_token: Secret | None, refresh_token: Secret, timeout: float
) -> Revocation:
    """Log out at CameraManager: DELETE with the valid access token, any 2xx is a success. It deletes both tokens."""
    url = endpoint.dialect.logout_endpoint or ""
    if access_token is None:
        return Revocation("failed", "access_token_required", "logging out needs a valid access token: refresh first")
    try:
        further, secrets = await endpoint.headers.current(timeout)
    except InvalidSettings as error:
        return Revocation("failed", "header_unreadable", str(error))
    headers = {name: value for name, value in further.items() if name.lower() != "authorization"}
    headers["Authorization"] = f"Bearer {access_token.reveal()}"
    reply = await endpoint.http.send(Request(method="DELETE", url=url, headers=headers), timeout=timeout)
    return _read(endpoint, reply, (access_token, refresh_token, *secrets))


def _read(endpoint: Endpoint, reply: Reply | NotSent | Unknown, sent: tuple[Secret, ...]) -> Revocation:
    if not isinstance(reply, Reply):
        return Revocation("failed", reply.code, reply.detail)
    if 200 <= reply.status <= 299 and not _reports_error(reply.body):  # RFC 9110 §15.3
        return Revocation("revoked")
    # The errors of RFC 7009 §2.2.1 are those of RFC 6749 §5.2.
    outcome = token_response.read(
        reply.status, reply.headers, reply.body, dialect=endpoint.dialect, now=0, sent=sent, fault=reply.fault
    )
    if isinstance(outcome, Answered):
        return Revocation("failed", f"http_{reply.status}")
    return Revocation("failed", outcome.code, outcome.detail)


def _reports_error(body: bytes | None) -> bool:
    try:
        return bool(body) and bool(members.parse(body or b"").values.get("error"))
    except members.Unreadable:
        return False
