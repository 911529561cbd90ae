"""Asking a running broker, for the commands: where it is, with which key, and its errors as ours."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from broker import errors
from broker.cli.options import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.settings import Settings

_TIMEOUT = 75.0
_BY_STATUS: dict[int, type[errors.BrokerError]] = {
    400: errors.CorrectRequest,
    401: errors.PresentKey,
    403: errors.AskForPermission,
    404: errors.NoSuchGrant,
    409: errors.ResolveConflict,
    429: errors.WaitBeforeRefresh,
    502: errors.ProviderRefused,
    503: errors.TryAgain,
}
_BY_CODE: dict[str, type[errors.BrokerError]] = {
    "reauthorization_required": errors.LogInAgain,
    "temporarily_unavailable": errors.ProviderUnavailable,
}


class Broker:
    """A running broker, asked with one key."""

    def __init__(self, session: aiohttp.ClientSession, base: str, where: str) -> None:
        self._session = session
        self._base = base
        self._where = where

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of one request. Raises `TryAgain` when nobody answers."""
        try:
            async with self._session.request(method, self._base + path, **options) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text else None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.TryAgain(
                f"no broker answers at {self._where} ({type(error).__name__}): is it running?"
            ) from None
        except ValueError:
            raise errors.TryAgain(f"what answers at {self._where} is not token-broker") from None

    async def get(self, method: str, path: str, **options: Any) -> Any:
        """JSON of one request that must succeed; the broker's error is raised as ours."""
        status, body = await self.ask(method, path, **options)
        if status >= 400:  # noqa: PLR2004
            raise error_of(status, body)
        return body

    def stream(self, method: str, path: str, **options: Any) -> Any:
        """A request whose answer is read as it comes."""
        return self._session.request(method, self._base + path, **options)


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
    if key_file is None and (key := os.environ.get("TOKEN_BROKER_KEY")):
        return key.strip()
    path = key_file or (settings.data_dir / "admin.key" if settings else None)
    if path is None:
        raise errors.PresentKey("no key: give --key-file, or set TOKEN_BROKER_KEY_FILE")
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise errors.PresentKey(
            f"the key in {path} cannot be read ({why}): give --key-file, or start the broker once"
        ) from None


@asynccontextmanager
async def broker_at(
    config: Path | None, url: str | None, key_file: Path | None, *, keyless: bool = False, timeout: float = _TIMEOUT
) -> AsyncIterator[Broker]:
    """The broker that the options or the settings name. *keyless* for what needs no key."""
    needs_settings = url is None or (not keyless and key_file is None and not os.environ.get("TOKEN_BROKER_KEY"))
    settings = load(config) if needs_settings else None
    base = where = _base_url(url, settings)
    headers = {} if keyless else {"X-Broker-Key": _key(key_file, settings)}
    connector: aiohttp.BaseConnector | None = None
    if base.startswith("unix:"):
        connector, base = aiohttp.UnixConnector(base.removeprefix("unix:")), "http://localhost"
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout)
    ) as session:
        yield Broker(session, base, where)


def run(work: Any) -> Any:
    """Run a command's coroutine; Ctrl-C is not a traceback."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
