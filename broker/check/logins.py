"""Check what protects logins and logouts: state, PKCE, and what tells the redirects of several providers apart. Pure.

What a kind of the catalogue fixes is a fact, told with what protects in its place. It is a warning where the person who
writes the settings can do better: their own setting weakens, or a redirect path of the provider's own is not set.
"""

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
    logins = {name: provider for name, provider in settings.providers.items() if _has_logins(provider)}
    shared = [name for name, provider in logins.items() if provider.redirect_path != "provider"]
    for name, provider in settings.providers.items():
        yield from _check_logout(name, provider, where)
    for name, provider in logins.items():
        yield _redirect_uri(settings, name)
        yield from _check_state(name, provider, where)
        yield from _check_pkce(name, provider, where)
        if provider.issuer is None:
            others = [other for other in shared if other != name] if name in shared else []
            yield _no_issuer(settings, name, where, others)


def _has_logins(provider: Provider) -> bool:
    """Return whether a person can log in there: without an authorization endpoint, grants are imported alone."""
    return provider.authorization_endpoint is not None or provider.discovery


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
            f"{_title(provider)} returns no state: only the browser that opened the login link completes a login, and "
            "whoever logs in confirms account and grant on a page before anything is kept",
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
        bound = "the browser's cookie" if provider.state == "optional" else "state, the browser's cookie"
        yield Finding(
            "ok",
            f"providers.{name}.pkce",
            f"{_title(provider)} is not known to take PKCE: {bound} and the client secret protect a login's code",
        )
        return
    yield Finding(
        "warning",
        where("providers", name, "pkce"),
        f"providers.{name}.pkce = false",
        "whoever gets hold of a code can redeem it, or have it redeemed for another login",
        "remove it, unless the provider refuses code_challenge",
    )


def _check_logout(name: str, provider: Provider, where: Where) -> Iterator[Finding]:
    """Yield that the kind's own endpoint of logouts is not used, where the token endpoint is at another host."""
    kind = catalogue.load(provider.kind).filled(provider.parameters)
    if provider.revocation_endpoint is not None or provider.logout_endpoint is not None:
        return
    for key in ("revocation_endpoint", "logout_endpoint"):
        if key in kind:
            yield Finding(
                "warning",
                where("providers", name, "token_endpoint"),
                f"providers.{name}.token_endpoint is at another host than that of its kind, so the kind's {key} is "
                "not used: it would get the tokens of that host",
                "a logout revokes nothing at the provider, and forgets the grant here alone",
                f'set {key} to that of the host; if token_endpoint only leads to the kind\'s own server: "{kind[key]}"',
            )


def _is_of_kind(provider: Provider, key: str) -> bool:
    """Return whether the kind sets *key* to what holds."""
    return bool(catalogue.load(provider.kind).settings.get(key) == getattr(provider, key))


def _title(provider: Provider) -> str:
    return catalogue.load(provider.kind).title


def _no_issuer(settings: Settings, name: str, where: Where, others: list[str]) -> Finding:
    """Return what it means that a provider has no issuer, beside the *others* whose redirects come back to its path."""
    provider, key = settings.providers[name], f"providers.{name}.issuer"
    if provider.redirect_path == "provider":
        words = f"its redirects come back to {settings.redirect_uri_of(name)}, which no other provider uses"
        return Finding("ok", key, f"no issuer is known, and none is needed: {words}")
    is_described_here = provider.kind in catalogue.BASES  # by whoever writes the settings, who may know its issuer
    if not others and not is_described_here:
        return Finding(
            "ok", key, "no issuer is known, and none is needed: no other provider's redirects come back to its path"
        )
    cure = f'set redirect_path = "provider" and register {settings.redirect_uri}/{name} at the provider'
    if is_described_here:
        cure = f'set issuer = "https://…", as the server names itself; if it sends no iss, {cure}'
    such = f", such as {others[0]}" if others else ""
    return Finding(
        "warning",
        where("providers", name, "kind"),
        f"providers.{name} has no issuer" + (", and shares its redirect path" if others else ""),
        f"the `iss` of its redirects cannot be compared, so they can be taken for those of another provider{such}",
        cure,
    )
