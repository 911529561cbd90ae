"""`token-broker logout`: revoke a grant at its provider and delete it."""

from __future__ import annotations

from broker.cli.console import ASKS_BROKER, app, exits, out
from broker.cli.http import broker_at, grant_path, run
from broker.cli.options import Config, GrantId, KeyFile, Url


@app.command(epilog=exits(*ASKS_BROKER))
def logout(grant: GrantId, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Log out: revoke the grant at the provider, then delete it; the output says which of the two happened."""

    async def work() -> None:
        async with broker_at(config, url, key_file) as broker:
            result = await broker.fetch("DELETE", grant_path(grant))
        out.print(f"Grant {grant}: {result['detail']}.", markup=False)

    run(work())
