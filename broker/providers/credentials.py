"""How our client shows itself at an endpoint (RFC 6749 §2.3.1): from its secret to a header or a form. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.providers.dialects import Dialect


@dataclass(frozen=True, slots=True)
class Credentials:
    """What each request carries of our registration; `repr` shows none of it."""

    headers: Mapping[str, str] = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    secrets: tuple[Secret, ...]
    """Every secret that is part of it."""


def credentials(dialect: Dialect, client_secret: Secret | None) -> Credentials:
    """The client's credentials as *dialect* shows them; *client_secret* None is a public client (RFC 6749 §2.1)."""
    pair = ":".join(_pair(dialect, client_secret or Secret("")))
    secrets = () if client_secret is None else (client_secret, Secret(pair))
    match dialect.token_endpoint_auth_method:
        case "client_secret_basic":
            basic = base64.b64encode(encoded(pair)).decode("ascii")
            return Credentials({"Authorization": f"Basic {basic}"}, {}, secrets)
        case "client_secret_post" if client_secret is not None:
            form = {"client_id": dialect.client_id, "client_secret": client_secret.reveal()}
            return Credentials({}, form, secrets)
        case "client_secret_post" | "none":
            return Credentials({}, {"client_id": dialect.client_id}, secrets)


def _pair(dialect: Dialect, client_secret: Secret) -> tuple[str, str]:
    """User and password of Basic: form-encoded as RFC 6749 §2.3.1 says, or as they are, as one server wants."""
    if dialect.basic_encoding == "plain":
        return dialect.client_id, client_secret.reveal()
    return quote_plus(encoded(dialect.client_id)), quote_plus(encoded(client_secret.reveal()))


def encoded(text: str) -> bytes:
    """*text* as bytes: a byte that was no UTF-8 when it came goes back as that byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, which JSON can carry, must not keep a token from being sent.
        return text.encode("utf-8", "surrogatepass")
