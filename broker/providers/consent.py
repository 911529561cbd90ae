"""The authorization request and what of its answer can be checked without a request (RFC 6749 §4.1.1, 7636, 9207).

Pure but for the randomness of a verifier. Knows nothing of browsers, cookies or pending logins.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from broker.errors import InvalidRequest
from broker.providers import redaction
from broker.secret import Secret

if TYPE_CHECKING:
    from broker.providers.dialects import Dialect


def new_verifier() -> Secret:
    """A fresh `code_verifier` (RFC 7636 §4.1): 64 characters, 384 random bits."""
    return Secret(secrets.token_urlsafe(48))


def challenge(verifier: Secret) -> str:
    """The `code_challenge` of *verifier* by S256 (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def authorization_url(
    dialect: Dialect, endpoint: str, *, redirect_uri: str, state: str, code_challenge: str | None
) -> str:
    """The authorization request (RFC 6749 §4.1.1) as the URL for the browser; *endpoint* keeps its own query.

    The dialect's `authorization_params` come last and replace none of ours.
    """
    asked = {
        "response_type": "code",
        "client_id": dialect.client_id,
        "redirect_uri": redirect_uri,
        "scope": dialect.scope or "",
        "state": state,
    }
    if code_challenge is not None:
        asked |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
    asked |= {name: value for name, value in dialect.authorization_params.items() if not asked.get(name)}
    # Eagle Eye V3 refuses a redirect_uri whose `://` is percent-encoded.
    plain = {"redirect_uri": ":/"} if not dialect.encode_redirect_uri else {}
    # `quote`, not `quote_plus`: a blank as %20 is understood by everybody.
    query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe=plain.get(name, ''))}" for name, value in asked.items() if value
    )
    if endpoint.endswith(("?", "&")):
        return endpoint + query
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"


def check_issuer(dialect: Dialect, iss: str | None, metadata_requires: bool) -> None:  # noqa: FBT001 - as the RFC has it
    """Compare the callback's `iss` with the issuer, to the letter (RFC 9207 §2.4). Raises `InvalidRequest`.

    *metadata_requires* is the dialect's `iss_parameter_supported`: a callback without `iss` is refused then. Where
    no issuer is known there is nothing to compare with.
    """
    if iss is None:
        if metadata_requires:
            raise InvalidRequest(
                "the provider's answer does not say which issuer it is from (no iss): start the login anew"
            )
        return
    if dialect.issuer is not None and iss != dialect.issuer:
        shown = redaction.detail(iss, ())
        raise InvalidRequest(
            f"the answer is from the issuer {shown!r}, not from {dialect.issuer!r}: start the login anew"
        )
