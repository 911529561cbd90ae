"""`token-broker token`: print the current access token of a grant."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.console import ASKS_BROKER, EXIT_LOG_IN, app, exits
from broker.cli.formats import Format, formatted
from broker.cli.http import broker_at, grant_path, run
from broker.cli.options import Config, GrantId, KeyFile, Url


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
            return await broker.fetch("GET", grant_path(grant, f"/token?min_ttl={min_ttl}" if min_ttl else "/token"))

    typer.echo(formatted(run(work()), form))
