"""A request to the token endpoint: what stands in it, and whether the client authenticates as its provider wants.

Knows nothing of grants; `emulator` does.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.catalogue.demands import Demands, Reply

FORM = "application/x-www-form-urlencoded"


class Refused(Exception):
    """A request that the provider does not accept: why, and what it answers."""

    def __init__(self, why: str, reply: Reply | None = None) -> None:
        super().__init__(why)
        self.reply = reply


@dataclass(slots=True)
class Asked:
    """One request to the token endpoint."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header's value, "" without it."""
        return {key.lower(): value for key, value in self.headers.items()}.get(name.lower(), "")


def read_form(asked: Asked, demands: Demands) -> dict[str, str]:
    """Return the parameters, which must come in the encoding demanded and once each.

    Raises:
        Refused: they do not.
    """
    wanted, sent = demands.client.body, asked.header("Content-Type").partition(";")[0]
    if wanted == "json" or (wanted == "form or json" and sent == "application/json"):
        if sent != "application/json":
            raise Refused("the body is not JSON")
        return {name: str(value) for name, value in json.loads(asked.body).items()}
    if sent != FORM:
        raise Refused("the body is not a form")
    pairs = parse_qsl(asked.body.decode(), keep_blank_values=True)
    if wanted == "form or query":
        pairs += parse_qsl(urlsplit(asked.url).query, keep_blank_values=True)
    return once(pairs)


def authenticate(asked: Asked, form: Mapping[str, str], demands: Demands, client_id: str, client_secret: str) -> None:
    """Check who asks, and that he says so in one way, which is one of those demanded.

    Raises:
        Refused: he does not.
    """
    client, refusal = demands.client, demands.answers.secret
    scheme, _, credentials = asked.header("Authorization").partition(" ")
    in_body = "client_secret" in form
    if bool(credentials) == in_body:
        raise Refused("not exactly one way of authenticating", refusal)
    if in_body:
        by = "post"
        ok = form.get(client.id_name) == client_id and form["client_secret"] == client_secret
    elif "key" in client.by:
        by = "key"
        ok = client_secret == (_user_of(credentials)[0] if scheme == "Basic" else credentials)
        forbid(form, [client.id_name])
    else:
        by = "basic"
        ok = scheme == "Basic" and _user_of(credentials) == (client_id, client_secret)
    if by not in client.by:
        raise Refused(f"client authentication by {by} is not known here", refusal)
    if not ok:
        raise Refused("client id or secret is wrong", refusal)


def once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return *pairs* by name, none of which may come twice."""
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Refused("a parameter comes twice")
    return given


def require(given: Mapping[str, str], name: str, value: str) -> None:
    """Refuse a request without the parameter *name*, or with another value than *value* ("*": any)."""
    if not given.get(name) or value not in {"*", given[name]}:
        raise Refused(f"{name} is missing or wrong")


def forbid(given: Mapping[str, str], names: list[str]) -> None:
    """Refuse a request with one of the parameters *names*."""
    for name in names:
        if name in given:
            raise Refused(f"{name} is not known here")


def _user_of(credentials: str) -> tuple[str, str]:
    """Return user name and password of HTTP Basic (RFC 6749 §2.3.1)."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return unquote_plus(user), unquote_plus(password)
