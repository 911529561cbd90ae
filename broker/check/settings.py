"""What settings that are right may still cost. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.settings import Provider, Settings

    Where = Callable[..., str]


def of_settings(settings: Settings, where: Where) -> Iterator[Finding]:
    """Findings of *settings* as they were read; *where* says where a key was set."""
    if not settings.refresh.journal:
        yield Finding(
            "warning",
            where("refresh", "journal"),
            "refresh.journal = false",
            "an answer that Redis loses, by a failover or a crash before its disk was synced, is lost with its refresh "
            "token: a person must log in again",
            "journal = true, with a data_dir that outlives the process",
        )
    if not settings.providers:
        yield Finding("warning", "providers", "there are none", "nothing can be kept alive", "add [providers.NAME]")
    for name, provider in settings.providers.items():
        yield from _of_provider(name, provider, where)
    if not settings.callers:
        yield Finding(
            "ok",
            "callers",
            f"none but the admin, by the key in {settings.data_dir / 'admin.key'}",
            "",
            "token-broker caller new NAME --read PATTERN",
        )


def _of_provider(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    key = f"providers.{name}"
    if provider.client_secret is not None:
        yield Finding(
            "warning",
            where("providers", name, "client_secret"),
            f"{key}.client_secret stands in the settings",
            "whoever reads or copies them has it, and it cannot be rotated without a restart",
            "write it into a file (umask 077) and say client_secret_file",
        )
    if provider.kind == "oauth2" and provider.issuer is None:
        yield Finding(
            "warning",
            where("providers", name, "kind"),
            f"{key} has no issuer",
            "the `iss` of a login's answer cannot be compared, so one of another server would be taken for this one's",
            'issuer = "https://…", as the server names itself',
        )
    if provider.allow_http:
        yield Finding(
            "warning",
            where("providers", name, "allow_http"),
            f"{key}.allow_http = true",
            "refresh tokens and the client secret may cross a network in clear",
            "use https endpoints, and drop it",
        )
    if provider.parameters == "query":
        yield Finding(
            "warning",
            where("providers", name, "parameters"),
            f'{key}.parameters = "query"',
            "refresh tokens stand in URLs, which servers and proxies write into logs",
            'parameters = "body", unless the server refuses that',
        )
