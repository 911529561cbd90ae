"""The settings of proxies: what is refused, without showing it, and what a broker checks before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.errors import InvalidSettings
from broker.providers.proxy import ignored_variables, require_proxies
from tests.settings.conftest import REDIS

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.settings import Settings

    Loaded = Callable[..., Settings]

PROVIDER = '[providers.acme]\nkind = "oauth2"\nclient_id = "x"\ntoken_endpoint = "https://as.test/token"\n'


@pytest.mark.parametrize(
    "value",
    [
        "http://user:PASSWORD@proxy.test:3128",
        "http://PASSWORD@proxy.test",
        "socks5://proxy.test:1080",
        "proxy.test:3128",
        "http://",
        "http://proxy.test:99999",
        "http://proxy.test:0",
        "http://proxy.test/path",
        "http://proxy.test?q",
        "http://pro xy.test",
        "direct",
    ],
)
@pytest.mark.parametrize("table", ["[outgoing]\n", "[notify]\n", PROVIDER])
def test_no_proxy(loaded: Loaded, value: str, table: str) -> None:
    """What is no URL of an HTTP proxy is refused with what is allowed, and not shown: it may hold a password."""
    with pytest.raises(InvalidSettings) as caught:
        loaded(f'{REDIS}{table}proxy = "{value}"\n')
    (finding,) = caught.value.findings
    assert "must be a URL such as" in finding
    assert "PASSWORD" not in finding


@pytest.mark.parametrize("value", ["http://proxy.test", "https://[::1]:3129/", "environment", "none", ""])
def test_good(loaded: Loaded, value: str) -> None:
    """URLs with and without a port, and the words."""
    assert loaded(f'{REDIS}[outgoing]\nproxy = "{value}"\n').outgoing.proxy == value


@pytest.mark.parametrize("table", ["[outgoing]\n", "[notify]\n", PROVIDER])
@pytest.mark.parametrize("proxy", ["", 'proxy = "none"\n'])
def test_credentials_for_nobody(loaded: Loaded, table: str, proxy: str) -> None:
    """Credentials belong to the proxy in their own table: those of one proxy never go to another."""
    with pytest.raises(InvalidSettings, match="proxy_credentials_file: needs a proxy beside it"):
        loaded(f'{REDIS}{table}{proxy}proxy_credentials_file = "x"\n')


@pytest.mark.parametrize(
    ("content", "words"),
    [("s3cr3t\n", "has no colon"), ("", "is empty"), (None, "No such")],
    ids=["no colon", "empty", "missing"],
)
def test_credentials_file(loaded: Loaded, tmp_path: Path, content: str | None, words: str) -> None:
    """Credentials that cannot be used are named before the broker starts, in each table, and never shown."""
    if content is not None:
        (tmp_path / "pair").write_text(content)
    lines = f'proxy = "http://p.test"\nproxy_credentials_file = "{tmp_path / "pair"}"\n'
    settings = loaded(f"{REDIS}[outgoing]\n{lines}[notify]\n{lines}{PROVIDER}{lines}")
    with pytest.raises(InvalidSettings) as caught:
        require_proxies(settings)
    keys = [finding.split(": ")[0] for finding in caught.value.findings]
    assert keys == [f"{table}.proxy_credentials_file" for table in ("outgoing", "providers.acme", "notify")]
    assert all(words in finding and "s3cr3t" not in finding for finding in caught.value.findings)


@pytest.mark.parametrize("value", ["socks5://user:PASSWORD@p:1080", "http://", "http://user:PASSWORD@p:x"])
def test_variable(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A variable that names no HTTP proxy stops a broker that is to use it, by its name alone."""
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(InvalidSettings) as caught:
        require_proxies(loaded(f'{REDIS}{PROVIDER}[outgoing]\nproxy = "environment"\n'))
    (finding,) = caught.value.findings
    assert finding.startswith("environment: ALL_PROXY: must be an http:// or https:// URL")
    assert "PASSWORD" not in finding
    require_proxies(loaded(REDIS + PROVIDER))


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        (PROVIDER, True),
        (PROVIDER + 'proxy = "none"\n', False),
        (PROVIDER + '[outgoing]\nproxy = "none"\n', False),
        (PROVIDER + '[outgoing]\nproxy = "environment"\n', False),
        ("", False),
        ('[notify]\nwebhook = "https://hooks.test"\n', True),
        ('[notify]\nwebhook = "https://hooks.test"\nproxy = "none"\n', False),
    ],
)
def test_ignored(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, settings: str, *, ignored: bool) -> None:
    """A variable is ignored where something goes directly and no setting says so."""
    monkeypatch.setenv("https_proxy", "http://p:1")
    assert ignored_variables(loaded(REDIS + settings)) == (("HTTPS_PROXY",) if ignored else ())
