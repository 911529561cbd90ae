"""How authorization servers differ, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.sandbox.options import Options


@dataclass(frozen=True, slots=True)
class Dialect:
    """What distinguishes one server from RFC 6749 and from the others; fixed, unlike its `Options`."""

    name: str
    title: str
    """The name that its pages show."""
    paths: Mapping[str, str]
    """Path of each endpoint on the sandbox, by the names that faults use."""
    options: Callable[[], Options]
    """Makes the options that it starts with."""
    mint: Callable[[], str]
    """Makes a token."""
    token_type: str = "Bearer"
    scopes: frozenset[str] | None = None
    """The scopes that exist; None takes any."""
    default_scope: str = ""
    """The scope that `Authority.issue` grants by default."""
    query_parameters: bool = False
    """Whether a token request's parameters may stand in the query."""
    body_credentials: bool = False
    """Whether client id and secret may stand in the body (RFC 6749 §2.3.1)."""
    dead_grant_status: int = 400
    """The status that comes with `invalid_grant` (RFC 6749 §5.2 says 400)."""
    strict_redirect_uri: bool = False
    """Rejects a percent-encoded redirect_uri, `localhost`, and a trailing slash."""
