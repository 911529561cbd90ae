"""What facts about providers mean. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.clocks import check_clock
from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.providers.facts import ProviderFacts, ServerFacts

SOON_DAYS = 14
_DAY = 86400


def check_provider(facts: ProviderFacts, now: float) -> Iterator[Finding]:
    """Yield the findings of one provider; *now* is epoch seconds."""
    where = f"providers.{facts.name}"
    if facts.wrong is not None:
        yield Finding("error", where, facts.wrong.removeprefix(f"{where}: "), "no login and no refresh is possible")
    if facts.undiscovered is not None:
        yield Finding(
            "failed",
            where,
            facts.undiscovered.removeprefix(f"{where}: "),
            "tokens are served until they expire, and not refreshed",
            "check whether the server runs and issuer is right",
        )
    for server in facts.servers:
        yield from _check_server(where, server, now)


def _check_server(where: str, server: ServerFacts, now: float) -> Iterator[Finding]:
    named = f"{where}.{server.what}"
    if server.failure is not None:
        yield Finding(
            "failed",
            named,
            f"{server.url} cannot be reached: {server.failure}",
            "no grant can be refreshed there",
            _cure(server),
        )
        return
    if server.status is not None and server.status >= 500:
        yield Finding(
            "warning",
            named,
            f"{server.url} responds with HTTP {server.status}",
            "the server fails, perhaps for a while",
            "check whether the server runs",
        )
    else:
        by = f" over {server.tls}" if server.tls else ""
        yield Finding("ok", named, f"{server.url} responds{by}{_through(server)}")
    if server.expires_at is not None and server.expires_at - now < SOON_DAYS * _DAY:
        days = max(0, int((server.expires_at - now) // _DAY))
        yield Finding(
            "warning",
            named,
            f"its certificate expires in {days} days",
            "after that no grant is refreshed there",
            "ask the server's operator to renew it",
        )
    yield from check_clock(named, server.offset)


def _through(server: ServerFacts) -> str:
    return f" through the proxy {server.through}" if server.through else ""


def _cure(server: ServerFacts) -> str:
    if server.by_proxy:
        return "correct proxy and proxy_credentials_file, or ask the operator of the proxy to allow the host"
    if server.sent:
        return "check whether the server runs"
    return "correct the name, the network or the certificate (SSL_CERT_FILE names further authorities)"
