"""Check what valid settings may still cost. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.check.finding import Finding
from broker.check.logins import check_logins
from broker.providers.consent import FIXED as FIXED_AT_LOGIN
from broker.providers.request_form import FIXED as FIXED_AT_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.settings import Provider, Settings

    Where = Callable[..., str]

_SECRET_HEADER = re.compile(r"auth|key|token|secret|password|signature", re.IGNORECASE)


def check_settings(settings: Settings, where: Where) -> Iterator[Finding]:
    """Yield the findings of *settings* as they were read; *where* returns where a key was set."""
    if not settings.refresh.journal:
        yield Finding(
            "warning",
            where("refresh", "journal"),
            "refresh.journal = false",
            "a token response that Redis loses, by a failover or a crash before its disk was synced, is lost with its "
            "refresh token: a person must log in again",
            "set journal = true, with a data_dir that outlives the process",
        )
    if not settings.providers:
        yield Finding("warning", "providers", "none is configured", "no token can be refreshed", "add [providers.NAME]")
    for name, provider in settings.providers.items():
        yield from _check_provider(name, provider, where)
    yield from check_logins(settings, where)
    yield from _check_callers(settings, where)
    if not settings.callers:
        yield Finding(
            "ok",
            "callers",
            f"only the admin (key: {settings.data_dir / 'admin.key'}). To add one",
            "",
            "token-broker caller new NAME --read PATTERN",
        )


def _check_callers(settings: Settings, where: Where) -> Iterator[Finding]:
    """Yield what the default of a caller's `providers` means, where the caller is no admin of all grants."""
    for name, caller in settings.callers.items():
        patterns = [*caller.admin, *caller.login]
        if patterns and "*" not in caller.admin and "providers" not in caller.model_fields_set:
            yield Finding(
                "warning",
                where("callers", name),
                f"callers.{name} may act on some grants only ({', '.join(patterns)}), but at every provider",
                "under those grant ids it can log in and import at any provider, and GET /v1/providers shows it all",
                'set providers = ["NAME"] in its table; ["*"] says that all are meant',
            )


def check_ignored(variables: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for *variables* of the environment that name a proxy which the broker does not use."""
    if variables:
        yield Finding(
            "warning",
            "outgoing.proxy",
            f"the environment has {' and '.join(variables)}, which the broker ignores",
            "it connects to providers directly, and a network that requires the proxy refuses that",
            'set outgoing.proxy = "environment" to use it, or "none" if it is not for the broker',
        )


def _check_provider(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    key = f"providers.{name}"
    if provider.client_secret is not None:
        yield Finding(
            "warning",
            where("providers", name, "client_secret"),
            f"{key}.client_secret stands in the settings",
            "everybody who reads or copies them has it, and it cannot be rotated without a reload",
            "write it to a file (umask 077) and set client_secret_file",
        )
    if provider.allow_http:
        yield Finding(
            "warning",
            where("providers", name, "allow_http"),
            f"{key}.allow_http = true",
            "refresh tokens and the client secret may cross a network in clear",
            "use https endpoints, and remove the key",
        )
    yield from _check_params(name, provider, where)
    if provider.place == "query":
        yield Finding(
            "warning",
            where("providers", name, "parameters"),
            f'{key}.parameters = "query"',
            "refresh tokens stand in URLs, which servers and proxies log",
            'set parameters = "body", unless the server rejects that',
        )


def _check_params(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    """Yield what is wrong with parameters and headers of the settings."""
    fixed = {
        "authorization_params": FIXED_AT_LOGIN,
        "exchange_params": FIXED_AT_TOKEN,
        "refresh_params": FIXED_AT_TOKEN,
    }
    for key, names in fixed.items():
        for param in sorted(names & getattr(provider, key).keys()):
            yield Finding(
                "warning",
                where("providers", name, key, param),
                f"providers.{name}.{key}.{param} has no effect",
                "the broker sets this parameter itself, and nothing may replace it",
                "remove it",
            )
    for header, value in provider.headers.items():
        if isinstance(value, str) and _SECRET_HEADER.search(header):
            yield Finding(
                "warning",
                where("providers", name, "headers", header),
                f"providers.{name}.headers.{header} stands in the settings",
                "if it is a secret, everybody who reads or copies them has it, and errors of the provider may show it",
                f'write it to a file (umask 077) and set headers = {{ "{header}" = {{ file = "…" }} }}',
            )
