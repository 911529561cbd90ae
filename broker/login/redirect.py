"""Read what a provider redirects a browser back with: the callback's query, or the URL pasted by a person."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from broker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LONGEST = 16_384
"""Bytes of a pasted URL or of a query: far above any real redirect."""
_MOST_PARAMETERS = 64


def read_redirect(pasted: str, redirect_uri: str, *others: str) -> dict[str, str]:
    """Return the parameters of a pasted redirect URL, whatever a terminal or a chat did to its white space.

    Raises:
        InvalidRequest: it begins neither with *redirect_uri* nor with one of the *others* that a provider has of its
            own, is too long, or repeats a parameter.
    """
    url = "".join(pasted.split()).replace("&amp;", "&")
    if len(url) > _LONGEST:
        raise InvalidRequest("redirected_to is longer than 16 KiB: paste the URL alone")
    if _location(url) not in map(_location, (redirect_uri, *others)):
        raise InvalidRequest(f"redirected_to must be the URL the browser ended at, beginning with {redirect_uri}")
    return read_query(urlsplit(url).query)


def read_query(query: str) -> dict[str, str]:
    """Return the parameters of a redirect, each once.

    A plus in a code is a plus: no server issues codes with blanks, but some leave their base64 as it is.

    Raises:
        InvalidRequest: a parameter is repeated, which RFC 6749 section 3.1 forbids, or the query is too long.
    """
    if len(query) > _LONGEST or query.count("&") >= _MOST_PARAMETERS:
        raise InvalidRequest(f"the query is longer than 16 KiB, or has more than {_MOST_PARAMETERS} parameters")
    parameters = parse_qs(query, keep_blank_values=True)
    # Whatever `code_parameter` says, the name of a code ends so.
    plain = parse_qs(query.replace("+", "%2B"))
    parameters |= {name: values for name, values in plain.items() if name.endswith("code")}
    return _each_once(parameters)


def with_code(query: Mapping[str, str], parameter: str) -> Mapping[str, str]:
    """Return *query* with the code at `code`, wherever the provider's *parameter* holds it."""
    if parameter == "code":
        return query
    others = {name: value for name, value in query.items() if name not in {"code", parameter}}
    return others | ({"code": query[parameter]} if parameter in query else {})


def _location(url: str) -> tuple[str | None, int | None, str] | None:
    """Return host, port and path; None where it is no URL."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port, parts.path.rstrip("/")
    except ValueError:
        return None


def _each_once(query: Mapping[str, Sequence[str]]) -> dict[str, str]:
    for name, values in query.items():
        if len(values) > 1:
            raise InvalidRequest(f"parameter {name[:32]!a} is given {len(values)} times, once is allowed")
    return {name: values[0] for name, values in query.items()}
