"""The authorization request, and the checks of its response that need no request (RFC 6749 §4.1.1, 7636, 9207).

Pure except for the randomness of a verifier. Knows nothing of browsers, cookies or pending logins.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote

from broker.errors import InvalidRequest
from broker.providers import redaction
from broker.providers.issuers import issuer_matches
from broker.providers.offline import consent_prompt
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.providers.dialects import Dialect

FIXED = frozenset({"state", "code_challenge", "code_challenge_method"})
"""Parameters of the authorization URL that no setting replaces: they protect the login."""


def new_verifier() -> Secret:
    """Return a fresh `code_verifier` (RFC 7636 §4.1): 64 characters, 384 random bits."""
    return Secret(secrets.token_urlsafe(48))


def challenge(verifier: Secret) -> str:
    """Return the `code_challenge` of *verifier* by S256 (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def authorization_url(
    dialect: Dialect, endpoint: str, *, redirect_uri: str, state: str, code_challenge: str | None
) -> str:
    """Return the authorization request (RFC 6749 §4.1.1) as the URL for the browser.

    *endpoint* keeps its own query. The dialect's `authorization_params` replace or, with "", remove any parameter but
    `state` and those of PKCE; further ones come last.
    """
    params = {
        "response_type": "code",
        "client_id": dialect.client_id,
        "redirect_uri": redirect_uri,
        "scope": dialect.scope or "",
        "state": state,
    }
    if code_challenge is not None:
        params |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
    params |= consent_prompt(dialect)
    params |= {name: value for name, value in dialect.authorization_params.items() if name not in FIXED}
    # Eagle Eye V3 rejects a redirect_uri whose `://` is percent-encoded.
    plain = {"redirect_uri": ":/"} if not dialect.encode_redirect_uri else {}
    # `quote`, not `quote_plus`: every server understands a space as %20.
    query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe=plain.get(name, ''))}" for name, value in params.items() if value
    )
    if endpoint.endswith(("?", "&")):
        return endpoint + query
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"


def check_issuer(
    dialect: Dialect, iss: str | None, *, required: bool, others: Mapping[str, str | None] = MappingProxyType({})
) -> None:
    """Compare the callback's `iss` with the issuer, character by character (RFC 9207 §2.4).

    Where no issuer is known, and there is no other provider, there is nothing to compare with. One of many tenants
    fits each of them.

    Args:
        dialect: names the issuer.
        iss: the parameter of the callback.
        required: the dialect's `iss_parameter_supported`: a callback without `iss` is rejected then.
        others: the issuers of the other providers, as far as they are known.

    Raises:
        InvalidRequest: the issuers differ, a required `iss` is missing, or it cannot be compared and there are other
            providers that it may be of.
    """
    if iss is None:
        if required:
            raise InvalidRequest("the provider's response does not name its issuer (no iss): start a new login")
        return
    shown = redaction.detail(iss, ())
    if dialect.issuer is not None and not issuer_matches(dialect.issuer, iss, None):
        raise InvalidRequest(f"the response is from issuer {shown!r}, not from {dialect.issuer!r}: start a new login")
    if dialect.issuer is None and others:
        of = next((name for name, issuer in others.items() if issuer and issuer_matches(issuer, iss, None)), None)
        whose = f", that of provider {of!r}" if of else ""
        cure = "" if of else f"; if it is this provider's own, set issuer below [providers.{dialect.name}]"
        raise InvalidRequest(
            f"the response is from issuer {shown!r}{whose}, and none is known of provider {dialect.name!r} to compare "
            f"it with: start a new login{cure}"
        )
