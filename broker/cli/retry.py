"""`token-broker retry`: have the broker try a parked grant or a suspended provider again."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from broker.cli.console import ASKS_BROKER, app, err, exits, out
from broker.cli.http import Broker, broker_at, grant_path, run
from broker.cli.options import Config, KeyFile, Url


@app.command(epilog=exits(*ASKS_BROKER))
def retry(
    grant: Annotated[str | None, typer.Argument(metavar="GRANT", help="Id of the grant to retry.")] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", "-p", metavar="NAME", help="Name of the provider to resume.")
    ] = None,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Retry a parked grant, or resume a suspended provider and retry its parked grants."""
    if (grant is None) == (provider is None):
        raise typer.BadParameter("name either a GRANT or --provider P")

    async def work() -> None:
        async with broker_at(config, url, key_file) as broker:
            if grant is not None:
                await _retry_grant(broker, grant)
            elif provider is not None:
                await _resume_provider(broker, provider)

    run(work())


async def _retry_grant(broker: Broker, grant: str) -> None:
    grant_now = await broker.fetch("POST", grant_path(grant, "/retry"))
    if grant_now["state"] == "leased":
        out.print(f"The broker is refreshing grant {grant} right now.", markup=False)
    elif grant_now.get("warning"):
        err.print(f"Grant {grant} is due, but {grant_now['warning']}.", markup=False)
    else:
        out.print(f"Grant {grant} is due: the broker sends one more token request.", markup=False)


async def _resume_provider(broker: Broker, provider: str) -> None:
    resumed = await broker.fetch("POST", f"/v1/providers/{quote(provider, safe='')}/retry")
    out.print(
        f"The broker sends requests to provider {provider} again, and retries {resumed['grants_taken_up']} parked "
        "grants.",
        markup=False,
    )
