"""The HTTP proxy on the way to a server: which one, if any, and the credentials that it asks for.

Owns the choice for each URL and the reading of the environment's variables. Knows nothing of what is sent; `faults` has
what a failure of the proxy means.
"""

from __future__ import annotations

import base64
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol
from urllib import request as urllib
from urllib.parse import urlsplit

from yarl import URL

from broker import __version__
from broker.errors import InvalidSettings
from broker.model import slotted
from broker.process.data_dir import secret_line
from broker.providers.client_secret import ClientSecret, is_pipe
from broker.settings.outgoing import DIRECT, ENVIRONMENT, is_proxy_url
from broker.settings.values import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from broker.settings import Provider, Settings

_is_excepted = urllib.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it
_SCHEMES = ("https", "http", "all")
_READ_LIMIT = 5.0
"""Seconds for reading the credentials, within the time of one request."""


class _Table(Protocol):
    """A table of the settings that may name a proxy."""

    @property
    def proxy(self) -> str | None: ...
    @property
    def proxy_credentials_file(self) -> Path | None: ...


@slotted
class Hop:
    """The proxy that one request goes through."""

    url: URL
    tunnel: bool
    """The proxy only passes bytes on, after CONNECT (RFC 9110 §9.3.6): the server has an https URL."""
    headers: Mapping[str, str] = field(repr=False)
    """For the proxy alone."""

    @property
    def name(self) -> str:
        """Its URL, which holds no credentials."""
        return str(self.url).rstrip("/")


def options(hop: Hop | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of aiohttp's `request` for a request with these *headers* through *hop*."""
    if hop is None:
        return {"headers": headers}
    if hop.tunnel:
        return {"headers": headers, "proxy": hop.url, "proxy_headers": hop.headers}
    # Without a tunnel the proxy reads the request itself, and takes its own lines out of it.
    return {"headers": {**headers, **hop.headers}, "proxy": hop.url}


class Proxy:
    """A proxy of the settings."""

    def __init__(self, setting: str, credentials: ClientSecret | None, *, loopback: bool) -> None:
        """Prepare the choice.

        Args:
            setting: the URL of the proxy, or `environment`.
            credentials: USER:PASSWORD; None: the proxy asks for none.
            loopback: use the proxy for loopback addresses too.

        Raises:
            InvalidSettings: a variable of the environment names no HTTP proxy.
        """
        self._url = None if setting == ENVIRONMENT else URL(setting)
        self._credentials = credentials
        self._loopback = loopback
        self._environment = _environment() if setting == ENVIRONMENT else {}

    @classmethod
    def from_settings(cls, key: str, table: _Table, outgoing: _Table) -> Proxy | None:
        """Return the proxy of *table*, named *key*, or that of *outgoing*; None where requests go directly.

        Raises:
            InvalidSettings: a variable of the environment names no HTTP proxy.
        """
        own = table.proxy is not None
        key, chosen = (key, table) if own else ("outgoing", outgoing)
        setting, file = chosen.proxy or "none", chosen.proxy_credentials_file
        if setting in DIRECT:
            return None
        credentials = None if file is None else ClientSecret(file=file, key=f"{key}.proxy_credentials_file")
        return cls(setting, credentials, loopback=own and setting != ENVIRONMENT)

    async def hop(self, url: str) -> Hop | None:
        """Return the proxy for a request to *url*; None: none.

        Raises:
            InvalidSettings: the credentials cannot be read.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host in LOOPBACK and not self._loopback:
            return None
        chosen, pair = self._url, None
        if chosen is None:
            found = self._environment.get(parts.scheme) or self._environment.get("all")
            if found is None or _is_excepted(parts.netloc, self._environment):
                return None
            chosen, pair = _without_user(found)
        if self._credentials is not None:
            secret = await self._credentials.current(_READ_LIMIT)
            pair = secret.reveal() if secret is not None else None
        headers = {"User-Agent": f"token-broker/{__version__}"}
        if pair is not None:
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
        return Hop(chosen, parts.scheme == "https", headers)


def _environment() -> dict[str, str]:
    """Return the proxies of the environment by scheme, and `no`, as Python's urllib reads them.

    Raises:
        InvalidSettings: one is no HTTP proxy.
    """
    found = urllib.getproxies_environment()
    for scheme in _SCHEMES:
        if scheme not in found:
            continue
        if "://" not in found[scheme]:  # as curl and Go read it
            found[scheme] = f"http://{found[scheme]}"
        if not is_proxy_url(found[scheme], user=True):
            raise InvalidSettings(
                f'environment: {scheme.upper()}_PROXY: must be an http:// or https:// URL of a proxy: proxy = "'
                f'{ENVIRONMENT}" uses it'
            )
    return found


def _without_user(text: str) -> tuple[URL, str | None]:
    """Return the URL of a proxy without user and password, and both as `USER:PASSWORD`."""
    url = URL(text)
    pair = None if url.user is None else f"{url.user}:{url.password or ''}"
    return url.with_user(None), pair


def variables() -> tuple[str, ...]:
    """Return the names of the environment's variables that name a proxy, as other programs would use them."""
    found = urllib.getproxies_environment()
    return tuple(f"{scheme.upper()}_PROXY" for scheme in _SCHEMES if scheme in found)


def ignored_variables(settings: Settings) -> tuple[str, ...]:
    """Return the variables that name a proxy for which some request would go directly, though no setting says so."""
    silent = settings.outgoing.proxy is None and any(
        table.proxy is None for table in (*settings.providers.values(), *_notices(settings))
    )
    return variables() if silent else ()


def require_proxies(settings: Settings, providers: Mapping[str, Provider] | None = None) -> None:
    """Check that each proxy of the settings can be used, with its credentials: at start, before anything is sent.

    Args:
        settings: all of them.
        providers: those to check; None: all.

    Raises:
        InvalidSettings: some cannot; one finding each.
    """
    wrong: dict[str, None] = {}
    for key, table in _tables(settings, settings.providers if providers is None else providers):
        try:
            Proxy.from_settings(key, table, settings.outgoing)
            if (file := table.proxy_credentials_file) is not None and not is_pipe(file):
                _require_pair(f"{key}.proxy_credentials_file", file)
        except InvalidSettings as error:
            wrong.update(dict.fromkeys(error.findings))
    if wrong:
        raise InvalidSettings(*wrong)


def _tables(settings: Settings, providers: Mapping[str, Provider]) -> Iterator[tuple[str, _Table]]:
    yield "outgoing", settings.outgoing
    yield from ((f"providers.{name}", provider) for name, provider in providers.items())
    yield "notify", settings.notify


def _notices(settings: Settings) -> Iterator[_Table]:
    posts = any(channel.kind not in {"command", "mail"} for channel in settings.notify.channels.values())
    if settings.notify.webhook is not None or posts:
        yield settings.notify


def _require_pair(key: str, file: Path) -> None:
    cure = "write USER:PASSWORD into it, and nothing else"
    if ":" not in secret_line(key, file, cure, "other"):
        raise InvalidSettings(f"{key}: {file} has no colon: {cure}")
