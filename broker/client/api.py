"""One exchange with the broker: a question, and a token or an error. What is kept, and when to ask, is not known here.

The key goes to the broker alone: redirects are not followed, and no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from broker.client import errors
from broker.client.token import Token, clock

if TYPE_CHECKING:
    import ssl

    from broker.client.place import Place

LONGEST_WAIT = 50.0
"""Seconds of a long poll: below what proxies cut off."""
_CONNECT = 5.0
_PATIENCE = 5.0
"""Seconds beyond the wait that was asked for, after which the broker is taken to hang."""
_BY_STATUS: dict[int, type[errors.BrokerError]] = {
    400: errors.InvalidRequest,
    401: errors.UnknownKey,
    403: errors.NotAllowed,
    404: errors.UnknownGrant,
}


class Wire:
    """Asks one broker, within one event loop."""

    def __init__(self, place: Place, tls: ssl.SSLContext | None) -> None:
        self._place = place
        # Every long poll holds a connection of its own: their number is the number of grants in use.
        connector: aiohttp.BaseConnector
        if place.socket is not None:
            connector = aiohttp.UnixConnector(place.socket, limit=0)
        else:
            connector = aiohttp.TCPConnector(limit=0, ssl=tls or True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "token-broker-client"},
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def token(
        self, grant_id: str, *, newer_than: int | None = None, min_ttl: float = 0, wait: float = 0
    ) -> Token | None:
        """The current token, waiting *wait* seconds for one; with *newer_than* (a generation) None for no news.

        Raises `BrokerError`.
        """
        headers = {"Prefer": f"wait={wait:.0f}"}
        if newer_than is not None:
            headers["If-None-Match"] = f'"{newer_than}"'
        query = f"?min_ttl={min_ttl:.3f}" if min_ttl > 0 else ""
        return await self._ask("GET", grant_id, f"token{query}", headers, wait)

    async def report(self, grant_id: str, generation: int, *, wait: float) -> Token | None:
        """The API answered 401 to the token of *generation*: the one after it. Raises `BrokerError`."""
        headers = {"Prefer": f"wait={wait:.0f}", "If-Match": f'"{generation}"'}
        return await self._ask("POST", grant_id, "refresh", headers, wait)

    async def _ask(self, method: str, grant_id: str, what: str, headers: dict[str, str], wait: float) -> Token | None:
        key = self._place.key.reveal()
        try:
            return await self._exchange(method, grant_id, what, headers, wait=wait, key=key)
        except errors.UnknownKey:
            if self._place.key.file is None:
                raise
        # The file may hold a newer one, or another request has read it already.
        await asyncio.to_thread(self._place.key.reread)
        if self._place.key.reveal() == key:
            raise errors.UnknownKey(f"the broker at {self._place.name} does not know the key in {self._place.key.file}")
        return await self._exchange(method, grant_id, what, headers, wait=wait, key=self._place.key.reveal())

    async def _exchange(
        self, method: str, grant_id: str, what: str, headers: dict[str, str], *, wait: float, key: str
    ) -> Token | None:
        url = f"{self._place.base}/v1/grants/{quote(grant_id)}/{what}"
        timeout = aiohttp.ClientTimeout(total=wait + _PATIENCE, sock_connect=_CONNECT)
        try:
            async with self._session.request(
                method,
                url,
                headers={**headers, "X-Broker-Key": key},
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                status, told = answer.status, answer.headers
                body = None if status == 304 else _object(await answer.read())  # noqa: PLR2004
        except TimeoutError:
            raise errors.BrokerUnreachable(
                f"the broker at {self._place.name} does not answer within {wait + _PATIENCE:.0f} s", grant_id=grant_id
            ) from None
        except (aiohttp.ClientError, OSError) as error:  # its text would show the headers
            raise errors.BrokerUnreachable(
                f"no broker answers at {self._place.name} ({_why(error)}): is it running, and is that its address?",
                grant_id=grant_id,
            ) from None
        if status == 304:  # noqa: PLR2004
            return None
        if status == 200 and body is not None:  # noqa: PLR2004
            return Token(body, answered_at=clock())
        raise self._error(status, body, told.get("Retry-After"), grant_id)

    def _error(self, status: int, body: dict[str, Any] | None, pause: str | None, grant_id: str) -> errors.BrokerError:
        """An error answer as the error it was."""
        name = self._place.name
        if body is None or "error" not in body:
            return errors.BrokerUnreachable(
                f"what answers at {name} is no token-broker (HTTP {status}): is that its address?", grant_id=grant_id
            )
        retry_after = float(pause) if pause is not None and pause.isdigit() else None
        text = f"{grant_id}: {body.get('error_description') or body['error']}"
        if body["error"] == "reauthorization_required":
            return errors.ReauthorizationRequired(text, grant_id=grant_id, login_url=self._login_url(body, grant_id))
        kind = _BY_STATUS.get(status, errors.TokenUnavailable)
        return kind(text, grant_id=grant_id, retry_after=retry_after)

    def _login_url(self, body: dict[str, Any], grant_id: str) -> str | None:
        """Where a person logs in: as the broker says, else its status page as we reach it."""
        if isinstance(told := body.get("login_url"), str):
            return told
        return self._place.web and f"{self._place.web}/#search={quote(grant_id)}"


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _why(error: aiohttp.ClientError | OSError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate: {getattr(error.certificate_error, 'verify_message', 'not trusted')}"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else type(error).__name__
