"""`token-broker check` and proxies: an ignored variable is named, and --online tries providers through their proxy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Home, home
from tests.connect_proxy import connect_proxy
from tests.scripted_server import authorization_server, says

if TYPE_CHECKING:
    from tests.cli.conftest import Done

__all__ = ["home"]  # the fixture

PAIR = "a-user:a-pass-word"
BASE = (
    'data_dir = "data"\n[redis]\nurl = "embedded:"\n[providers.acme]\nkind = "oauth2"\nclient_id = "x"\n'
    'issuer = "https://as.test"\n'
)


def found(done: Done, where: str) -> list[tuple[str, str]]:
    """Return level and words of the findings at *where*."""
    return [(each["level"], each["what"]) for each in json.loads(done.out)["findings"] if each["where"] == where]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
async def test_ignored_variable(home: Home, variable: str) -> None:
    """A variable that names a proxy is a warning as long as no setting says whether to use it; it is never shown."""
    home.settings.write_text(BASE + 'token_endpoint = "https://as.test/token"\n')
    env = {variable: f"http://{PAIR}@proxy.test:3128"}
    ignored = await home("check", "--json", env=env)
    assert found(ignored, "outgoing.proxy") == [
        ("warning", "the environment has HTTPS_PROXY, which the broker ignores")
    ]
    assert "a-pass-word" not in ignored.out
    for word in ("environment", "none"):
        done = await home("check", "--json", env=env | {"TOKEN_BROKER_OUTGOING__PROXY": word})
        assert (done.code, found(done, "outgoing.proxy")) == (0, [])
    assert found(await home("check", "--json"), "outgoing.proxy") == []


async def test_variable_that_cannot_be_used(home: Home) -> None:
    """A SOCKS proxy in the environment is refused by `check` and `run` alike where it is to be used."""
    home.settings.write_text(BASE + 'token_endpoint = "https://as.test/token"\n[outgoing]\nproxy = "environment"\n')
    env = {"ALL_PROXY": f"socks5://{PAIR}@proxy.test:1080"}
    done, ran = await home("check", env=env), await home("run", env=env)
    assert (done.code, ran.code) == (78, 78)
    assert "environment: ALL_PROXY: must be an http:// or https:// URL of a proxy" in done.out
    assert "environment: ALL_PROXY: must be an http:// or https:// URL of a proxy" in ran.err
    assert "a-pass-word" not in done.out + ran.err


async def test_online(home: Home) -> None:
    """A server behind the proxy is ok and the proxy named; a refusal of the proxy is a failure of the proxy."""
    (home.directory / "pair").write_text(f"{PAIR}\n")
    (home.directory / "pair").chmod(0o600)
    async with authorization_server(name="as.test") as server, connect_proxy(PAIR) as proxy:
        server.page = says("", 405)
        proxy.names["as.test"] = server.port
        home.settings.write_text(
            f'{BASE}allow_http = true\ntoken_endpoint = "{server.url}/token"\n'
            f'[outgoing]\nproxy = "{proxy.url}"\nproxy_credentials_file = "pair"\n'
        )
        where = "providers.acme.token_endpoint"
        good = await home("check", "--online", "--json")
        assert ("ok", f"{server.url}/token responds through the proxy {proxy.url}") in found(good, where)
        (home.directory / "pair").write_text("a-user:another\n")
        bad = await home("check", "--online", "--json")
    refused = f"the proxy {proxy.url} refused with HTTP 407: it asks for other credentials"
    assert found(bad, where) == [("failed", f"{server.url}/token cannot be reached: {refused}")]
    assert "correct proxy and proxy_credentials_file" in bad.out
    assert bad.code == 1
    assert not [part for part in ("a-pass-word", "another", "a-user") if part in good.out + bad.out]
    assert len(server.pages) == 1
