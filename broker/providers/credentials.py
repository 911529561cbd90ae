"""How the client authenticates at an endpoint (RFC 6749 §2.3.1): from its secret to a header or a form. Pure."""

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
    """The part of each request that authenticates the client; `repr` shows none of it."""

    headers: Mapping[str, str] = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    secrets: tuple[Secret, ...]
    """Every secret that is part of it."""

    @classmethod
    def for_client(cls, dialect: Dialect, client_secret: Secret | None) -> Credentials:
        """Make the credentials in the form that *dialect* wants.

        Args:
            dialect: says which form, and the client id.
            client_secret: None is a public client (RFC 6749 §2.1).
        """
        pair = ":".join(_user_and_password(dialect, client_secret or Secret("")))
        secrets = () if client_secret is None else (client_secret, Secret(pair))
        match dialect.token_endpoint_auth_method:
            case "client_secret_basic":
                basic = base64.b64encode(to_bytes(pair)).decode("ascii")
                return cls({"Authorization": f"Basic {basic}"}, {}, secrets)
            case "client_secret_post" if client_secret is not None:
                form = {"client_id": dialect.client_id, "client_secret": client_secret.reveal()}
                return cls({}, form, secrets)
            case "client_secret_post" | "none":
                return cls({}, {"client_id": dialect.client_id}, secrets)


def _user_and_password(dialect: Dialect, client_secret: Secret) -> tuple[str, str]:
    """Return the pair of Basic: form-encoded as RFC 6749 §2.3.1 says, or verbatim, as one server requires."""
    if dialect.basic_encoding == "plain":
        return dialect.client_id, client_secret.reveal()
    return quote_plus(to_bytes(dialect.client_id)), quote_plus(to_bytes(client_secret.reveal()))


def to_bytes(text: str) -> bytes:
    """Encode *text* so that a byte that was not UTF-8 when it arrived goes back as that byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, which JSON can carry, must not keep a token from being sent.
        return text.encode("utf-8", "surrogatepass")
