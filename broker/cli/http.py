"""Asking a running broker, for the commands: where it is, with which key, and its errors as ours."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import typer

from broker import errors
from broker.cli.console import EXIT_INTERRUPTED
from broker.cli.options import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from broker.settings import Settings

T = TypeVar("T")
_TIMEOUT = 75.0
_ACCEPTED = frozenset({201, 202})
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
_BY_CODE: dict[str, type[errors.BrokerError]] = {
    "reauthorization_required": errors.ReauthorizationRequired,
    "temporarily_unavailable": errors.ProviderUnavailable,
}


class Broker:
    """A running broker, asked with one key."""

    def __init__(self, session: aiohttp.ClientSession, base: str, where: str) -> None:
        self._session = session
        self._base = base
        self._where = where

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON object of one request. Raises `TokenUnavailable` when nobody answers."""
        async with self.stream(method, path, **options) as answer:
            text = await answer.text()
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise errors.TokenUnavailable(f"what answers at {self._where} is not token-broker (HTTP {answer.status})")
        return answer.status, body

    async def get(self, method: str, path: str, **options: Any) -> Any:
        """JSON of one request that must succeed; the broker's error is raised as ours."""
        status, body = await self.ask(method, path, **options)
        if status != 200 and status not in _ACCEPTED:
            raise error_of(status, body)
        return body

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and stream its response.

        Raises:
            TokenUnavailable: no broker answers, or the response breaks off.
        """
        answered = False
        try:  # a redirect would carry the key to wherever it leads
            async with self._session.request(method, self._base + path, allow_redirects=False, **options) as answer:
                answered = True
                yield answer
        except TimeoutError:
            raise errors.TokenUnavailable(f"the broker at {self._where} does not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            if answered:
                raise errors.TokenUnavailable(
                    f"the broker at {self._where} broke off its answer: is it restarting?"
                ) from None
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number and number > 0 else type(error).__name__
            raise errors.TokenUnavailable(
                f"no broker answers at {self._where} ({why}): start it with `token-broker run`, or name it with --url"
            ) from None


def error_of(status: int, body: Any) -> errors.BrokerError:
    """An error answer as the error it was."""
    told = body if isinstance(body, dict) else {}
    code, text = str(told.get("error", status)), str(told.get("error_description", f"HTTP {status}"))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, errors.BrokerError)
    return kind(text, code=code)


def _base_url(url: str | None, settings: Settings | None) -> str:
    if url is not None:
        return url.rstrip("/")
    assert settings is not None  # noqa: S101 - read where no url is given
    address = settings.http.listen[0]
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - asked, not listened on
    return f"http://{reachable}:{port}"


def _key(key_file: Path | None, settings: Settings | None) -> str:
    path = key_file or (settings.data_dir / "admin.key" if settings else None)
    if key_file is None and (given := os.environ.get("TOKEN_BROKER_KEY")):
        key, where = given.strip(), "TOKEN_BROKER_KEY"
    elif path is None:
        raise errors.UnknownKey("no key: give --key-file, or set TOKEN_BROKER_KEY_FILE")
    else:
        try:
            key, where = path.read_text("utf-8-sig").strip(), str(path)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise errors.UnknownKey(f"the key in {path} cannot be read ({why}): name another with --key-file") from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise errors.UnknownKey(f"what {where} holds is no key: a key is one word")
    return key


@asynccontextmanager
async def broker_at(
    config: Path | None, url: str | None, key_file: Path | None, *, keyless: bool = False, timeout: float = _TIMEOUT
) -> AsyncIterator[Broker]:
    """The broker that the options or the settings name. *keyless* for what needs no key.

    Raises:
        UnknownKey: there is no key.
        TokenUnavailable: there is no broker either; that must be mended first.
    """
    needs_settings = url is None or (not keyless and key_file is None and not os.environ.get("TOKEN_BROKER_KEY"))
    settings = load(config) if needs_settings else None
    base = where = _base_url(url, settings)
    missing: errors.UnknownKey | None = None
    headers = {}
    try:
        headers = {} if keyless else {"X-Broker-Key": _key(key_file, settings)}
    except errors.UnknownKey as error:
        missing = error
    connector: aiohttp.BaseConnector | None = None
    if base.startswith("unix:"):
        connector, base = aiohttp.UnixConnector(base.removeprefix("unix:")), "http://localhost"
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout)
    ) as session:
        broker = Broker(session, base, where)
        if missing is not None:
            await broker.ask("GET", "/healthz")
            raise missing
        yield broker


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C is not a traceback."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


async def read_from(descriptor: int, size: int) -> bytes:
    """The next bytes of a file, a pipe or a terminal, at most *size*; none at its end.

    In a thread that may be left behind: at Ctrl-C the interpreter would wait for one of `asyncio.to_thread`, and that
    one for the next line.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    def tell(chunk: bytes) -> None:
        if not came.done():
            came.set_result(chunk)

    def read() -> None:
        try:
            chunk = os.read(descriptor, size)
        except OSError:
            chunk = b""
        try:
            loop.call_soon_threadsafe(tell, chunk)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=read, daemon=True).start()
    return await came
