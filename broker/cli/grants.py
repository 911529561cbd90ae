"""The commands for one grant: login, logout, token and retry; and import, for many."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from broker import errors
from broker.cli.console import ASKS_BROKER, EXIT_FAILURE, EXIT_LOG_IN, app, err, exits, out
from broker.cli.formats import Format, formatted
from broker.cli.http import Broker, broker_at, error_of, read_from, run
from broker.cli.options import Config, GrantId, Json, KeyFile, Url
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_POLL = 0.5
_OK, _NOT_FOUND, _UNAVAILABLE = 200, 404, 503
_LONGEST = 600.0
"""Seconds that a login may take."""
_IMPORT_HELP = 'NDJSON file, - for standard input: {"grant_id", "provider", "refresh_token", "scope"?} per line.'
_CHUNK = 64 * 1024
_STDIN = 0


def grant_path(grant_id: str, rest: str = "") -> str:
    """The path of a grant and what follows it; raises `InvalidRequest`."""
    if not GRANT_ID.fullmatch(grant_id):
        raise errors.InvalidRequest(
            f"{grant_id[:128]!r} is not a grant id: letters and digits, then also, '.', '_' or '-' (at most 128)"
        )
    return f"/v1/grants/{grant_id}{rest}"


@app.command(epilog=exits(*ASKS_BROKER))
def login(
    grant: GrantId,
    provider: Annotated[str, typer.Option("--provider", "-p", help="Name of the provider in the settings.")],
    paste: Annotated[
        bool, typer.Option("--paste", help="Log in by a browser elsewhere; paste the URL it ends at.")
    ] = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Log in once; from then on the broker keeps the grant alive. Logging in again revives a dead grant."""
    run(_login(grant, provider, paste, config, url, key_file))


async def _login(
    grant: str, provider: str, paste: bool, config: Path | None, url: str | None, key_file: Path | None
) -> None:
    async with broker_at(config, url, key_file) as broker:
        before = None if paste else await _granted_at(broker, grant)
        started = await broker.get("POST", grant_path(grant, "/login"), json={"provider": provider})
        if paste:
            out.print(
                "Open this in any browser, log in, and paste the URL it ends at (the page itself may fail to load):"
            )
            typer.echo(started["authorization_url"])
            pasted = await _pasted()
            told = await broker.get(
                "POST", grant_path(grant, "/login/complete"), json={"redirected_to": pasted, "state": started["state"]}
            )
        else:
            out.print("Open this in the browser you log in with (it works for ten minutes):")
            typer.echo(started["login_url"])
            told = await _completed(broker, grant, started, before)
    scope = f", scope {told['scope']}" if told.get("scope") else ""
    out.print(
        f"Logged in: grant {grant} at {provider} is kept alive; its access token lives {told['expires_in']} s{scope}.",
        markup=False,
    )


async def _pasted() -> str:
    """The URL a person pastes: up to a line's end, or standard input's."""
    # Not input(): a terminal's line is bounded to 4096 characters, and a redirect can be longer.
    err.print("URL: ", end="")
    pasted = b""
    while chunk := await read_from(_STDIN, _CHUNK):
        pasted += chunk
        if pasted.strip() and pasted.endswith((b"\n", b"\r")) and not pasted.rstrip(b"\r\n").endswith(b"\\"):
            break
    if not pasted.strip():
        raise errors.InvalidRequest("no URL was pasted: nothing was changed")
    return pasted.decode("utf-8", "replace")


async def _granted_at(broker: Broker, grant: str) -> int | None:
    """When somebody logged in for *grant* (epoch s); None where nobody has. Raises the broker's error."""
    status, told = await broker.ask("GET", grant_path(grant))
    if status not in {_OK, _NOT_FOUND}:
        raise error_of(status, told)
    granted_at: int | None = told.get("granted_at")
    return granted_at


async def _completed(broker: Broker, grant: str, started: dict[str, Any], before: int | None) -> dict[str, Any]:
    """Wait for the browser. The grant itself has the last word, should the login's own record be gone."""
    left = started["expires_at"] - time.time()
    ends = time.monotonic() + (left if 0 < left < _LONGEST else _LONGEST)  # our clock may be off
    described: dict[str, Any] = {}
    while time.monotonic() < ends:
        await asyncio.sleep(_POLL)
        try:
            status, told = await broker.ask("GET", grant_path(grant, f"/login/{started['ticket']}"))
            gone = status == _NOT_FOUND
            found = 0
            if gone or told.get("status") == "completed":
                found, described = await broker.ask("GET", grant_path(grant))
        except errors.TokenUnavailable:
            continue  # the broker restarts: the login outlives it in Redis
        if _UNAVAILABLE in {status, found}:
            continue
        if status == _OK and told["status"] == "failed":
            raise error_of(503 if told["error"] in {"temporarily_unavailable", "server_error"} else 400, told)
        if status not in {_OK, _NOT_FOUND}:
            raise error_of(status, told)
        if found == _OK and not (gone and described["granted_at"] == before):
            lives = (described["expires_at"] or 0) - (described["issued_at"] or 0)
            return {"scope": described.get("scope"), "expires_in": lives}
        if gone:
            break
        if found:
            raise error_of(found, described)
    raise errors.InvalidRequest("the login was not completed within ten minutes: start again")


@app.command(epilog=exits(*ASKS_BROKER))
def logout(grant: GrantId, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Log out: revoke the grant at the provider, then delete it; the output says which of the two happened."""

    async def work() -> None:
        async with broker_at(config, url, key_file) as broker:
            told = await broker.get("DELETE", grant_path(grant))
        out.print(f"Grant {grant}: {told['detail']}.", markup=False)

    run(work())


@app.command(epilog=exits(*ASKS_BROKER, EXIT_LOG_IN))
def token(
    grant: GrantId,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            metavar="FORM",
            help="text: the token only; json: the whole response; header: for curl -H @-; env: lines to source in a "
            "shell; k8s: an ExecCredential for kubectl.",
        ),
    ] = "text",
    min_ttl: Annotated[
        int,
        typer.Option("--min-ttl", min=0, metavar="SECONDS", help="Refresh first if the token has fewer seconds left."),
    ] = 0,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Print the current access token."""

    async def work() -> Any:
        async with broker_at(config, url, key_file) as broker:
            return await broker.get("GET", grant_path(grant, f"/token?min_ttl={min_ttl}" if min_ttl else "/token"))

    typer.echo(formatted(run(work()), form))


@app.command(epilog=exits(*ASKS_BROKER))
def retry(
    grant: Annotated[str | None, typer.Argument(metavar="GRANT", help="Id of the grant to retry.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="Name of the provider to resume.")] = None,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Retry a parked grant, or resume a suspended provider and retry its parked grants."""
    if (grant is None) == (provider is None):
        raise typer.BadParameter("name a GRANT or --provider P, one of them")

    async def work() -> None:
        async with broker_at(config, url, key_file) as broker:
            if grant is not None:
                told = await broker.get("POST", grant_path(grant, "/retry"))
                words = (
                    "is being refreshed right now" if told["state"] == "leased" else "is due: one more request goes out"
                )
                out.print(f"Grant {grant} {words}.", markup=False)
            else:
                told = await broker.get("POST", f"/v1/providers/{quote(provider or '', safe='')}/retry")
                out.print(
                    f"Provider {provider} is asked again; parked grants taken up: {told['grants_taken_up']}.",
                    markup=False,
                )

    run(work())


@app.command("import", epilog=exits(*ASKS_BROKER, own={EXIT_FAILURE: "a line was refused, or failure"}))
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help=_IMPORT_HELP)],
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Import refresh tokens that you already have. It is safe to repeat: a line imported before changes nothing."""
    counts = run(_import(file, as_json, config, url, key_file))
    if as_json:
        typer.echo(json.dumps(counts))
    else:
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        out.print(told or "nothing to import: no line in it", markup=False)
    if counts.get("refused"):
        raise typer.Exit(EXIT_FAILURE)


async def _import(
    file: Path, as_json: bool, config: Path | None, url: str | None, key_file: Path | None
) -> dict[str, int]:
    try:
        stream = None if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise errors.InvalidRequest(f"{file}: cannot be read ({error.strerror})") from None
    source = stream.fileno() if stream else _STDIN
    total = file.stat().st_size if stream and file.is_file() else None
    counts: dict[str, int] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    quiet = as_json or not err.is_terminal
    with stream or nullcontext(), Progress(*columns, console=err, disable=quiet, transient=True) as progress:
        bar = progress.add_task("importing", total=total)

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := await read_from(source, _CHUNK):
                progress.advance(bar, len(chunk))
                yield chunk

        def count(told: dict[str, Any]) -> None:
            counts[told["status"]] = counts.get(told["status"], 0) + 1
            progress.update(bar, description=f"{sum(counts.values())} grants")
            if words := told.get("error_description") or told.get("warning"):
                name = f" ({told['grant_id']})" if "grant_id" in told else ""
                err.print(f"line {told['line']}{name}: {words}", markup=False)

        try:
            async with (
                broker_at(config, url, key_file, timeout=24 * 3600) as broker,
                broker.stream("POST", "/v1/import", data=chunks()) as answer,
            ):
                if answer.status != 200:
                    raise error_of(answer.status, await answer.json())
                async for raw in answer.content:
                    count(json.loads(raw))
        except errors.TokenUnavailable as error:
            if not counts:
                raise
            raise errors.TokenUnavailable(
                f"{error}; {sum(counts.values())} lines were taken, and importing the whole file again is safe"
            ) from None
    return counts
