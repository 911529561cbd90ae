"""Token requests as they leave: which parameters, in which part, in which encoding. Pure.

Owns the rules by which parameters from the settings add to those of RFC 6749, replace them or leave them out.
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote_plus

from broker.providers.credentials import to_bytes
from broker.providers.http import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.providers.credentials import Credentials

Parameters = Literal["body", "query"]
Body = Literal["form", "json"]
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
FIXED = frozenset({"code", "code_verifier", "refresh_token"})
"""Parameters of a token request that no setting replaces: what is redeemed, and PKCE."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
"""Text that a form leaves as it is: nearly every token."""


def with_params(form: Mapping[str, str], every: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return *form* with the parameters of the settings; one with the value "" is not sent.

    Args:
        form: the parameters of RFC 6749.
        every: `token_params`. They add to *form*; `client_id` alone they may replace or leave out.
        own: `exchange_params` or `refresh_params`. They may replace or leave out every parameter but `FIXED`.
    """
    replacing = {name: value for name, value in own.items() if name not in FIXED}
    return {**every, **form, **replacing}


def authenticate(
    url: str,
    form: Mapping[str, str],
    client: Credentials,
    parameters: Parameters,
    *,
    body: Body = "form",
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Return a POST of *form* to *url* with the client's credentials (RFC 6749 §2.3.1).

    Args:
        url: the endpoint.
        form: the parameters; one with the value "" is not sent. A `client_id` replaces the one of *client*.
        client: the client's credentials.
        parameters: "query" puts *form* into the URL; credentials never go there.
        body: how parameters in the body are encoded.
        headers: further headers, which win over all others.
    """
    credentials = {name: value for name, value in client.form.items() if name != "client_id" or name not in form}
    form = {name: value for name, value in form.items() if value}
    if parameters == "query":
        url += ("&" if "?" in url else "?") + _encode_form(form)
        form = {}
    form = {**form, **credentials}
    if body == "json":
        content, kind = json.dumps(form).encode("ascii"), JSON
    else:
        content, kind = _encode_form(form).encode("ascii"), FORM
    merged = {"Content-Type": kind, **client.headers}
    if headers:
        taken = {name.lower() for name in headers}
        merged = {name: value for name, value in merged.items() if name.lower() not in taken} | dict(headers)
    return Request(method="POST", url=url, headers=merged, body=content)


def _encode_form(form: Mapping[str, str]) -> str:
    return "&".join([f"{_quote_name(name)}={_quote(value)}" for name, value in form.items()])


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote_plus(to_bytes(text))


_quote_name = functools.cache(_quote)
"""For the names of parameters: the standard's, and those of the settings."""
