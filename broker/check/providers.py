"""What facts about providers mean. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.clocks import of_clock
from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.providers.facts import ProviderFacts, ServerFacts

SOON_DAYS = 14
_DAY = 86400


def of_provider(facts: ProviderFacts, now: float) -> Iterator[Finding]:
    """Findings of one provider; *now* is epoch seconds."""
    where = f"providers.{facts.name}"
    if facts.wrong is not None:
        yield Finding("error", where, facts.wrong.removeprefix(f"{where}: "), "no login and no refresh can be made")
    if facts.undiscovered is not None:
        yield Finding(
            "failed",
            where,
            facts.undiscovered.removeprefix(f"{where}: "),
            "tokens are served to their end, and not refreshed",
            "see whether the server is up and issuer is right",
        )
    for server in facts.servers:
        yield from _of_server(where, server, now)


def _of_server(where: str, server: ServerFacts, now: float) -> Iterator[Finding]:
    named = f"{where}.{server.what}"
    if server.failure is not None:
        yield Finding(
            "failed",
            named,
            f"{server.url} cannot be asked: {server.failure}",
            "nothing can be refreshed there",
            "mend the name, the network or the certificate (SSL_CERT_FILE names further authorities)"
            if not server.sent
            else "see whether the server is up",
        )
        return
    assert server.status is not None  # noqa: S101 - it answered
    if server.status >= 500:
        yield Finding(
            "warning",
            named,
            f"{server.url} answers HTTP {server.status}",
            "a server's fault, which may pass",
            "see whether the server is up",
        )
    else:
        yield Finding("ok", named, f"{server.url} answers{f' over {server.tls}' if server.tls else ''}")
    if server.expires_at is not None and server.expires_at - now < SOON_DAYS * _DAY:
        days = max(0, int((server.expires_at - now) // _DAY))
        yield Finding(
            "warning",
            named,
            f"its certificate expires in {days} days",
            "from then on nothing is refreshed there",
            "have whoever runs the server renew it",
        )
    yield from of_clock(named, server.offset)
