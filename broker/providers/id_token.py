"""Read the id_token of a code exchange (OpenID Connect Core §2, §3.1.3.7): who logged in.

Pure: *now* is given. The signature is not verified: the token comes straight from the token endpoint, whose TLS
vouches for it (§3.1.3.7, step 6). The broker sends no nonce: PKCE and `state` bind the code to the login.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING

from broker.errors import ProviderRefused
from broker.model.account import MAX_TEXT, Account
from broker.providers import members, redaction
from broker.providers.issuers import issuer_matches, of_any_tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.secret import Secret

LEEWAY_MS = 300_000
"""How far the clocks of this host and of the issuer may differ."""
_JWE_PARTS = 5


def is_encrypted(id_token: Secret) -> bool:
    """Return whether it is encrypted (RFC 7516 §7.1: five parts), so that only its receiver's key opens it."""
    return id_token.reveal().count(".") == _JWE_PARTS - 1


def read_account(
    id_token: Secret, secrets: tuple[Secret, ...] = (), *, issuer: str | None, client_id: str, now: int
) -> Account:
    """Return the account that an id_token names.

    Further audiences are accepted: some servers add their own (Zitadel its project), and nothing here is decided for
    them.

    Args:
        id_token: as the token endpoint sent it.
        secrets: what came with it, and must not be shown as a part of the account.
        issuer: what `iss` must equal; None: it is not known, and not compared.
        client_id: what `aud` must contain.
        now: epoch ms.

    Raises:
        ProviderRefused: the id_token does not parse, has expired, or is another issuer's or client's.
    """
    claims = _claims(id_token.reveal())
    iss, subject, expires = claims.get("iss"), claims.get("sub"), members.number(claims.get("exp"))
    tenant = claims.get("tid")
    if issuer is not None and not (
        isinstance(iss, str) and issuer_matches(of_any_tenant(issuer), iss, tenant if isinstance(tenant, str) else "")
    ):
        shown = redaction.detail(iss, (id_token,), 200) if isinstance(iss, str) else "no iss"
        raise _refused(f"it names the issuer {shown!r}, not {issuer!r}")
    audience = claims.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        raise _refused("its audience (aud) is another client")
    if expires is None:
        raise _refused("it has no expiry (exp)")
    if expires * 1000 + LEEWAY_MS <= now:
        raise _refused(f"it expired {(now - expires * 1000) / 1000:.0f} s ago: check the clock of the broker's host")
    account = account_from(subject, claims, (id_token, *secrets)) if isinstance(subject, str) else None
    if account is None:
        raise _refused(f"it has no sub of at most {MAX_TEXT} characters")
    return account


def account_from(id_: object, values: Mapping[str, object], secrets: tuple[Secret, ...]) -> Account | None:
    """Return the account *id_* with what *values* say of it; None where *id_* is no name of an account.

    Every text is bounded, and shown without *secrets*.
    """
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if not isinstance(id_, str) or not id_.strip() or len(id_) > MAX_TEXT or not id_.isprintable():
        return None
    if any(secret and secret.reveal() in id_ for secret in secrets):
        return None
    texts = {
        name: redaction.detail(value, secrets, MAX_TEXT)
        for name in ("email", "preferred_username", "name")
        if isinstance(value := values.get(name), str) and value.strip()
    }
    return Account(id_, **texts)


def _claims(token: str) -> Mapping[str, object]:
    parts = token.split(".")
    if len(parts) != 3:
        raise _refused("it is no JWT")
    try:
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        claims = json.loads(payload)
    except (binascii.Error, ValueError, RecursionError):
        raise _refused("its payload is no JSON") from None
    if not isinstance(claims, dict):
        raise _refused("its payload is no JSON object")
    return claims


def _refused(why: str) -> ProviderRefused:
    return ProviderRefused(
        f"the provider's id_token cannot be accepted: {why}. Nothing was replaced", code="invalid_id_token"
    )
