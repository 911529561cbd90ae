"""The four commands of the page about OpenID Connect, at an issuer that keeps to the letter."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING

from broker.sandbox import BrowserError, walk_login
from tests.cli.conftest import Done, Home, home, read_until
from tests.project.pages import blocks, page

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["home"]  # the fixture

COMMANDS = blocks(page("broker/providers/OPENID_CONNECT.md"), "shell")[0].splitlines()


async def log_in(home: Home, arguments: Sequence[str]) -> tuple[Done, str]:
    """Run the last command and follow the link that it prints; return its end and the text of the last page."""
    process = home.start(*arguments)
    link = (await read_until(process, f"{home.url}/login/"))[-1].strip()
    try:
        text = await walk_login(link)
    except BrowserError as error:
        text = error.text
    return await home.ended(process), text


async def test_four_commands_for_any_issuer(home: Home) -> None:
    """As on the page: refused until filled in, then a token; where prompt=consent is dropped, the words why none."""
    init, secret, run, login = [shlex.split(line, comments=True) for line in COMMANDS]
    authority = home.sandbox.rotating
    authority.options.offline_by_consent = True

    printed = (await home(*init[1 : init.index(">")])).out
    home.settings.write_text(printed)
    assert (await home("check")).code == 78
    filled = printed.replace('"https://…"', f'"{authority.issuer}"')
    filled = filled.replace('client_id = "…"', f'client_id = "{authority.client_id}"')
    filled = filled.replace("127.0.0.1:8080", home.url.removeprefix("http://"))
    home.settings.write_text(filled)

    assert secret[-1] == "client_secret)"
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", COMMANDS[1].partition("#")[0], cwd=home.directory, stdin=asyncio.subprocess.PIPE
    )
    await shell.communicate(f"{authority.client_secret}\n".encode())
    assert (home.directory / "client_secret").stat().st_mode & 0o777 == 0o600

    assert (await home("check", "--online")).code == 0
    assert run == ["token-broker", "run", "&"]
    running = await home.run()
    done, _ = await log_in(home, login[1:])
    assert (done.code, "Logged in" in done.out) == (0, True), done
    assert authority.is_live_access((await home("token", login[2])).out.strip())
    await home.stop(running)

    home.settings.write_text(filled.replace('kind = "oidc"\n', 'kind = "oidc"\nauthorization_params = {prompt = ""}\n'))
    await home.run()
    done, text = await log_in(home, login[1:])
    words = "(granted scope: openid; dropped: offline_access): remove prompt from authorization_params"
    assert words in text
    assert (done.code, words in " ".join(done.err.split())) == (1, True), done
