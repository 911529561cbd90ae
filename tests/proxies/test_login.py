"""https in front of the pages to log in: the recipe of deploy/proxies/login, with a certificate of Caddy's own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp

from tests.deploy.deployment import DEPLOY
from tests.ports import free_port
from tests.proxies.programs import program, proxying

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartBroker


def caddy(folder: Path, listen: int, broker: str, _: str) -> list[str]:
    """Return the command of a Caddy by the recipe, which signs its certificate itself."""
    recipe = (DEPLOY / "proxies" / "login" / "Caddyfile").read_text()
    named = ("login.example.org {", f"https://localhost:{listen} {{\n\ttls internal")
    for old, new in (named, ("127.0.0.1:8081\n", f"{broker}\n")):
        assert old in recipe
        recipe = recipe.replace(old, new)
    head = f"{{\n\tadmin off\n\tstorage file_system {folder}/store\n\tskip_install_trust\n"
    (folder / "Caddyfile").write_text(f"{head}\tauto_https disable_redirects\n}}\n{recipe}")
    return [program("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


async def test_a_login_page_over_https(start_broker: StartBroker, tmp_path: Path) -> None:
    """A link to log in opens over https, its cookie is Secure, and nothing but these pages is served there."""
    public, folder = f"127.0.0.1:{free_port()}", tmp_path / "caddy"
    async with proxying(caddy, folder, public, "") as plain:
        url = plain.replace("http://127.0.0.1", "https://localhost")
        trust = ssl.create_default_context(cafile=folder / "store" / "pki" / "authorities" / "local" / "root.crt")
        http = {"public_listen": [public], "public_url": url}
        async with start_broker(http=http) as broker, aiohttp.ClientSession() as session:
            status, body, _ = await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "acme"})
            assert (status, body["login_url"].startswith(f"{url}/login/")) == (200, True)
            async with session.get(body["login_url"], ssl=trust, allow_redirects=False) as answer:
                assert answer.status in {302, 303}
                assert "; Secure" in answer.headers["Set-Cookie"]
            for path in ("/", "/v1/grants", "/metrics", "/healthz"):
                async with session.get(url + path, ssl=trust) as answer:
                    assert answer.status == 404
