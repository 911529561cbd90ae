"""Check what protects logins: state, PKCE, and what tells the redirects of several providers apart. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.finding import Finding
from broker.settings import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.settings import Provider, Settings

    Where = Callable[..., str]


def check_logins(settings: Settings, where: Where) -> Iterator[Finding]:
    """Yield the findings of every provider; *where* returns where a key was set."""
    shared = [name for name, provider in settings.providers.items() if provider.redirect_path != "provider"]
    for name, provider in settings.providers.items():
        yield _redirect_uri(settings, name)
        yield from _check_state(name, provider, where)
        yield from _check_pkce(name, provider, where)
        others = [other for other in shared if other != name]
        if provider.issuer is None and name in shared and (others or provider.kind == "oauth2"):
            yield _no_issuer(settings, name, where, others)


def _redirect_uri(settings: Settings, name: str) -> Finding:
    provider, uri, where = settings.providers[name], settings.redirect_uri_of(name), f"providers.{name}.redirect_uri"
    if provider.redirect_uri is not None:
        return Finding(
            "ok", f"providers.{name}", f"{provider.redirect_uri} is sent as redirect_uri, and leads to {uri}"
        )
    return Finding("ok", where, f"the redirect URI to register is {uri}")


def _check_state(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    if provider.state != "optional":
        return
    if _is_of_kind(provider, "state"):  # nobody can change what the provider does
        yield Finding(
            "ok",
            f"providers.{name}.state",
            "a redirect may carry no state, so whoever logs in then confirms it on a page",
        )
        return
    yield Finding(
        "warning",
        where("providers", name, "state"),
        f'providers.{name}.state = "optional"',
        "a redirect without state may be of another person's login, so whoever logs in must confirm it on a page",
        "remove it, unless the provider returns no state",
    )


def _check_pkce(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    if provider.pkce is not False:
        return
    if _is_of_kind(provider, "pkce"):
        yield Finding(
            "ok", f"providers.{name}.pkce", "logins are without PKCE, which the provider is not known to take"
        )
        return
    yield Finding(
        "warning",
        where("providers", name, "pkce"),
        f"providers.{name}.pkce = false",
        "whoever gets hold of a code can redeem it, or have it redeemed for another login",
        "remove it, unless the provider refuses code_challenge",
    )


def _is_of_kind(provider: Provider, key: str) -> bool:
    """Return whether the kind sets *key* to what holds."""
    return bool(catalogue.load(provider.kind).settings.get(key) == getattr(provider, key))


def _no_issuer(settings: Settings, name: str, where: Where, others: list[str]) -> Finding:
    cure = 'set issuer = "https://…", as the server names itself'
    if others:
        own = f"{settings.redirect_uri}/{name}"
        cure += f'; if it sends no iss, set redirect_path = "provider" and register {own} there'
    return Finding(
        "warning",
        where("providers", name, "kind"),
        f"providers.{name} has no issuer",
        "the `iss` of a login's response cannot be compared, so a response of another server would be accepted"
        + (f", such as that of {others[0]}" if others else ""),
        cure,
    )
