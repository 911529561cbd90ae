"""`token-broker login`: a person logs in by a browser, and the broker keeps the grant alive from then on."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from broker import errors
from broker.cli.console import ASKS_BROKER, app, err, exits, out
from broker.cli.http import Broker, broker_at, grant_path, run
from broker.cli.options import Config, GrantId, KeyFile, Url, given_again
from broker.cli.stdin import STDIN, read_chunk
from broker.report.grant_facts import account_words

_POLL_INTERVAL = 0.5
_OK, _NOT_FOUND, _UNAVAILABLE = 200, 404, 503
_MAX_DURATION = 600.0
"""Seconds that a login may take."""


@app.command(epilog=exits(*ASKS_BROKER))
def login(
    ctx: typer.Context,
    grant: GrantId,
    provider: Annotated[
        str, typer.Option("--provider", "-p", metavar="NAME", help="Name of the provider in the settings.")
    ],
    paste: Annotated[
        bool, typer.Option("--paste", help="Log in by a browser elsewhere; paste the address it ends at.")
    ] = False,
    replace_account: Annotated[
        bool, typer.Option("--replace-account", help="Replace the grant even if the login is of another account.")
    ] = False,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="TEXT", help="Who is responsible for the grant; free text.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="TEXT", help="What the grant is for; free text.")
    ] = None,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Log in once; from then on the broker keeps the grant alive. Logging in again revives a dead grant.

    A login of another account than the grant's replaces nothing, unless --replace-account is given.
    """
    options = {"owner": owner, "label": label, "replace_account": replace_account or None}
    wanted = {name: value for name, value in options.items() if value is not None}

    async def work() -> None:
        async with broker_at(config, url, key_file) as broker:
            await (log_in_by_paste if paste else log_in_by_link)(broker, grant, provider, **wanted)

    try:
        run(work())
    except typer.Exit:
        if not paste:
            err.print("Interrupted. A link that was printed works until its ten minutes are over.")
        raise
    again = given_again(ctx)
    commands = {f"token-broker token {grant}{again}": "prints the access token"}
    commands[f"token-broker status{again}"] = "shows what works and what fails"
    width = max(map(len, commands))
    out.print(
        "Next:", *(f"  {command:{width}}   # {words}" for command, words in commands.items()), sep="\n", markup=False
    )


async def log_in_by_link(broker: Broker, grant: str, provider: str, **options: Any) -> None:
    """Print a link, and wait until a person has followed it.

    Raises:
        BrokerError: the broker's error, or that the login failed or took too long.
    """
    granted_before = await _granted_at(broker, grant)
    started = await _start(broker, grant, provider, options)
    out.print("Open this link in the browser that you log in with (it works for ten minutes):")
    typer.echo(started["login_url"])
    _print_result(grant, provider, await _wait_until_completed(broker, grant, started, granted_before))


async def log_in_by_paste(broker: Broker, grant: str, provider: str, **options: Any) -> None:
    """Print a link for a browser elsewhere, and read the URL at which that browser ended.

    Raises:
        BrokerError: the broker's error, or that nothing was pasted.
    """
    started = await _start(broker, grant, provider, options)
    out.print(
        "Open this link in any browser, log in, and paste the URL it ends at (that page itself may fail to load):"
    )
    typer.echo(started["authorization_url"])
    completion = {"redirected_to": await _pasted_url(), "state": started["state"]}
    _print_result(grant, provider, await broker.fetch("POST", grant_path(grant, "/login/complete"), json=completion))


async def _start(broker: Broker, grant: str, provider: str, options: dict[str, Any]) -> dict[str, Any]:
    body = {"provider": provider, **options}
    started: dict[str, Any] = await broker.fetch("POST", grant_path(grant, "/login"), json=body)
    return started


def _print_result(grant: str, provider: str, token: dict[str, Any]) -> None:
    scope = f", scope {token['scope']}" if token.get("scope") else ""
    account = f", account {account_words(token['account'])}" if token.get("account") else ""
    out.print(
        f"Logged in: the broker keeps grant {grant} at {provider} alive; its access token lives "
        f"{token['expires_in']} s{scope}{account}.",
        markup=False,
    )
    if token.get("warning"):
        err.print(f"Warning: {token['warning']}.", markup=False)


async def _pasted_url() -> str:
    """Return the URL that a person pastes: up to an end of line, or to the end of standard input."""
    # Not input(): a terminal's line is bounded to 4096 characters, and a redirect can be longer.
    err.print("URL: ", end="")
    pasted = b""
    while chunk := await read_chunk(STDIN):
        pasted += chunk
        if pasted.strip() and pasted.endswith((b"\n", b"\r")) and not pasted.rstrip(b"\r\n").endswith(b"\\"):
            break
    if not pasted.strip():
        raise errors.InvalidRequest("no URL was pasted, so nothing was changed: run the command again")
    return pasted.decode("utf-8", "replace")


async def _granted_at(broker: Broker, grant: str) -> int | None:
    """Return when somebody last logged in for *grant* (epoch seconds); None where nobody has."""
    status, described = await broker.ask("GET", grant_path(grant))
    if status not in {_OK, _NOT_FOUND}:
        raise broker.error_of(status, described)
    granted_at: int | None = described.get("granted_at")
    return granted_at


async def _wait_until_completed(
    broker: Broker, grant: str, started: dict[str, Any], granted_before: int | None
) -> dict[str, Any]:
    """Wait until the browser has completed the login; return the scope and lifetime of the token.

    If the broker no longer has a record of the login, the grant itself shows whether it was completed.
    """
    left = started["expires_at"] - time.time()
    # The clocks of this host and of the broker may differ by more than a login may take.
    ends = time.monotonic() + (left if 0 < left < _MAX_DURATION else _MAX_DURATION)
    described: dict[str, Any] = {}
    while time.monotonic() < ends:
        await asyncio.sleep(_POLL_INTERVAL)
        try:
            status, progress = await broker.ask("GET", grant_path(grant, f"/login/{started['ticket']}"))
            gone = status == _NOT_FOUND
            found = 0
            if gone or progress.get("status") == "completed":
                found, described = await broker.ask("GET", grant_path(grant))
        except errors.TokenUnavailable:
            continue  # the broker restarts: the login outlives it in Redis
        if _UNAVAILABLE in {status, found}:
            continue
        if status == _OK and progress["status"] == "failed":
            later = progress["error"] in {"temporarily_unavailable", "server_error"}
            other = progress["error"] == "other_account"
            raise broker.error_of(503 if later else 409 if other else 400, progress)
        if status not in {_OK, _NOT_FOUND}:
            raise broker.error_of(status, progress)
        if found == _OK and not (gone and described["granted_at"] == granted_before):
            lifetime = (described["expires_at"] or 0) - (described["issued_at"] or 0)
            return {name: described.get(name) for name in ("scope", "account")} | {"expires_in": lifetime}
        if gone:
            break
        if found:
            raise broker.error_of(found, described)
    raise errors.InvalidRequest("nobody completed the login within ten minutes: start it again")
