"""Requests of the commands to a running broker: its address, the caller's key, and its errors as exceptions.

Knows the paths of the API and its errors, but no command.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import typer

from broker import errors
from broker.cli.console import EXIT_INTERRUPTED
from broker.cli.options import config_path, load
from broker.errors import InvalidSettings
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from broker.settings import Settings

T = TypeVar("T")
_TIMEOUT = 75.0
"""Seconds for one request and its response."""
REPORT_TIMEOUT = 15.0
"""The same where the broker waits for nobody: it answers from memory where Redis does not."""
_SUCCESS = frozenset({200, 201, 202})
_BY_STATUS: dict[int, type[errors.BrokerError]] = {
    400: errors.InvalidRequest,
    401: errors.UnknownKey,
    403: errors.NotAllowed,
    404: errors.UnknownGrant,
    409: errors.Conflict,
    429: errors.TooFresh,
    502: errors.ProviderRefused,
    503: errors.TokenUnavailable,
}
_GRANT_PATH = re.compile(r"/v1/grants/([^/?]+)")
_BY_CODE: dict[str, type[errors.BrokerError]] = {
    "reauthorization_required": errors.ReauthorizationRequired,
    "temporarily_unavailable": errors.ProviderUnavailable,
}


class Broker:
    """A running broker, and the session that sends it requests with one key.

    Args:
        session: Sends the requests.
        base: URL before every path.
        where: Address as the user knows it, for messages.
        key_source: The file or the variable that holds the key, for messages.
    """

    def __init__(self, session: aiohttp.ClientSession, base: str, where: str, key_source: str) -> None:
        self._session = session
        self._base = base
        self._where = where
        self._key_source = key_source

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send one request; return the status and the JSON object of its response.

        Raises:
            TokenUnavailable: no broker answers, or what answers is none.
        """
        async with self.stream(method, path, **options) as answer:
            text = await answer.text()
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise errors.TokenUnavailable(f"what answers at {self._where} is not token-broker (HTTP {answer.status})")
        return answer.status, body

    async def fetch(self, method: str, path: str, **options: Any) -> Any:
        """Send one request that must succeed; return the JSON object of its response.

        Raises:
            BrokerError: the broker's error, as `error_of` makes it.
        """
        status, body = await self.ask(method, path, **options)
        if status not in _SUCCESS:
            raise self.error_of(status, body, path)
        return body

    def error_of(self, status: int, body: Any, path: str = "") -> errors.BrokerError:
        """Return the error that an error response stands for.

        Args:
            status: HTTP status of the response.
            body: Its JSON value.
            path: Where the request went; a 404 of a grant's path then names the grant.
        """
        members = body if isinstance(body, dict) else {}
        code, text = str(members.get("error", status)), str(members.get("error_description", f"HTTP {status}"))
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status, errors.BrokerError)
        if kind is errors.UnknownKey:
            text = (
                f"the broker does not know the key in {self._key_source}: name another file with --key-file, or make "
                "a key with `token-broker caller new NAME`"
            )
        elif kind is errors.UnknownGrant and (of_grant := _GRANT_PATH.match(path)):
            text = f"there is no grant {of_grant[1]}: token-broker status lists them"
        return kind(text, code=code)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and stream its response.

        Raises:
            TokenUnavailable: no broker answers, or the response breaks off.
        """
        answered = False
        try:  # redirects are off: one would carry the key to another host
            async with self._session.request(method, self._base + path, allow_redirects=False, **options) as answer:
                answered = True
                yield answer
        except TimeoutError:
            raise errors.TokenUnavailable(
                f"the broker at {self._where} does not answer in time: try again, or restart it"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            if answered:
                raise errors.TokenUnavailable(
                    f"the broker at {self._where} broke off its response: it may be restarting; try again"
                ) from None
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number and number > 0 else type(error).__name__
            raise errors.TokenUnavailable(
                f"no broker answers at {self._where} ({why}): start it with `token-broker run`, or name it with --url"
            ) from None


def grant_path(grant_id: str, rest: str = "") -> str:
    """Return the path of a grant, followed by *rest*.

    Raises:
        InvalidRequest: *grant_id* is not a grant id.
    """
    if not GRANT_ID.fullmatch(grant_id):
        raise errors.InvalidRequest(
            f"{grant_id[:128]!r} is not a grant id: write a letter or digit, then letters, digits, '.', '_' or '-', "
            "at most 128 in all"
        )
    return f"/v1/grants/{grant_id}{rest}"


def _url_from_settings(settings: Settings) -> str:
    address = settings.http.listen[0]
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - a command only connects to it
    return f"http://{reachable}:{port}"


def _read_key(key_file: Path | None, settings: Settings | None) -> tuple[str, str]:
    """Return the caller's key, and the file or the variable that holds it.

    Raises:
        UnknownKey: there is none.
    """
    path = key_file or (settings.data_dir / "admin.key" if settings else None)
    if key_file is None and (given := os.environ.get("TOKEN_BROKER_KEY")):
        key, where = given.strip(), "TOKEN_BROKER_KEY"
    elif path is None:
        raise errors.UnknownKey(
            "there is no key: name its file with --key-file or TOKEN_BROKER_KEY_FILE; `token-broker caller new NAME` "
            "makes one"
        )
    else:
        try:
            key, where = path.read_text("utf-8-sig").strip(), str(path)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise errors.UnknownKey(
                f"the key in {path} cannot be read ({why}): name another file with --key-file, or make a key with "
                "`token-broker caller new NAME`"
            ) from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise errors.UnknownKey(f"{where} does not hold a key: a key is one word of ASCII characters")
    return key, where


def _load_settings(config: Path | None) -> Settings:
    """Return the settings that say where the broker is.

    Raises:
        InvalidSettings: there are none, or they are wrong; the last finding says how to reach a broker without them.
    """
    try:
        return load(config)
    except InvalidSettings as error:
        path = config_path(config)
        if path is None or not path.exists():
            raise
        raise InvalidSettings(
            *error.findings,
            "a running broker keeps the settings that it had; to reach it meanwhile, name --url and --key-file",
        ) from None


@asynccontextmanager
async def broker_at(
    config: Path | None, url: str | None, key_file: Path | None, *, keyless: bool = False, timeout: float = _TIMEOUT
) -> AsyncIterator[Broker]:
    """Open a session with the broker that the options name, or else the settings.

    Args:
        config: Settings file, where the options leave something open.
        url: Address of the broker; None: what the settings listen on.
        key_file: File with the caller's key; None: TOKEN_BROKER_KEY, else the admin key in `data_dir`.
        keyless: Send no key, for routes that need none.
        timeout: Seconds for each request and its response.

    Raises:
        InvalidSettings: the settings are needed and wrong.
        UnknownKey: there is no key.
        TokenUnavailable: there is no key and no broker either; the broker comes first.
    """
    keyed = keyless or key_file is not None or bool(os.environ.get("TOKEN_BROKER_KEY"))
    if url is not None and keyed:
        settings, base = None, url.rstrip("/")
    else:
        settings = _load_settings(config)
        base = _url_from_settings(settings) if url is None else url.rstrip("/")
    where = base
    missing: errors.UnknownKey | None = None
    headers, key_source = {}, ""
    try:
        if not keyless:
            headers["X-Broker-Key"], key_source = _read_key(key_file, settings)
    except errors.UnknownKey as error:
        missing = error
    connector: aiohttp.BaseConnector | None = None
    if base.startswith("unix:"):
        connector, base = aiohttp.UnixConnector(base.removeprefix("unix:")), "http://localhost"
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout)
    ) as session:
        broker = Broker(session, base, where, key_source)
        if missing is not None:
            await broker.ask("GET", "/healthz")
            raise missing
        yield broker


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine.

    Raises:
        typer.Exit: Ctrl-C interrupted it (130).
    """
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
