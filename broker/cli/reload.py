"""`token-broker reload`: have the broker read its settings again, and print what it took up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from broker.cli.console import ASKS_BROKER, app, exits, out
from broker.cli.http import broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATH = "/v1/reload"
_WHAT = {
    "providers_added": "Providers added",
    "providers_changed": "Providers changed, from the next request on",
    "providers_removed": "Providers removed; their grants wait until the table is back",
    "callers_added": "Callers added",
    "callers_changed": "Callers changed",
    "callers_removed": "Callers removed; their keys open nothing any more",
    "changed": "Keys with a new value",
}
"""What each list of the answer holds; a broker of an older version sends the first three alone."""
_KEPT = "nothing was changed: the broker keeps the settings that it had"


@app.command(epilog=exits(*ASKS_BROKER))
def reload(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Have the running broker read its settings again, as SIGHUP does: what changed, and what needs a restart."""

    async def work() -> dict[str, Any]:
        async with broker_at(config, url, key_file) as broker:
            status, body = await broker.ask("POST", _PATH)
            if body.get("error") == InvalidSettings.code:
                raise InvalidSettings(*body["error_description"].splitlines(), _KEPT)
            if status != 200:
                raise broker.error_of(status, body, _PATH)
            return dict(body)

    reloaded = run(work())
    if as_json:
        typer.echo(json.dumps(reloaded))
        return
    for line in _lines(reloaded):
        out.print(line, markup=False)


def _lines(reloaded: dict[str, Any]) -> Iterator[str]:
    changes = [f"{words}: {', '.join(reloaded[key])}." for key, words in _WHAT.items() if reloaded.get(key)]
    yield from changes or ["Nothing that a running broker takes up has changed."]
    callers = ", ".join(reloaded["callers"]) or "only the admin of data_dir"
    yield f"Callers: {callers}. Log level: {reloaded['log_level']}."
    if reloaded["needs_restart"]:
        yield f"These need a restart of the broker: {', '.join(reloaded['needs_restart'])}."
