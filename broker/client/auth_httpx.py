"""A grant's token in httpx's requests, and in those of its successor httpx2: an `Auth` for whichever is there."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from broker.client.errors import InvalidConfiguration
from broker.client.origin import Pin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from broker.client.grant import Grant
    from broker.client.sync import SyncGrant
    from broker.client.token import Token


def bearer_auth(grant: Grant | SyncGrant, origin: str | None) -> Any:
    """An `auth` for requests to *origin*, or to that of the first one. Raises `InvalidConfiguration`, `ImportError`."""
    bases = []
    for name in ("httpx2", "httpx"):
        try:
            bases.append(importlib.import_module(name).Auth)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    if not bases:
        raise ModuleNotFoundError("neither httpx2 nor httpx is installed: `pip install httpx2`", name="httpx2")
    return type("BearerAuth", (_Flows, *bases), {})(grant, origin)


class _Flows:
    """The flow of one request: with the token, and after a 401 once more with the next one.

    The flow goes around redirects, and httpx itself drops `Authorization` on the way to another origin (but for the
    same host's http on port 80 to https on port 443). So a 401 counts only where the answered request carried it.
    """

    requires_request_body = False
    requires_response_body = False

    def __init__(self, grant: Any, origin: str | None) -> None:
        self._grant = grant
        self._pin = Pin(origin, grant.id)
        self._is_async = inspect.iscoroutinefunction(grant.token)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """For `httpx.Client`. Raises what `SyncGrant.token` raises."""
        if self._is_async:
            raise InvalidConfiguration("a Broker's grant is for httpx.AsyncClient: for httpx.Client use SyncBroker")
        if not self._pin.holds(str(request.url)):
            yield request
            return
        token = self._grant.token()
        response = yield _with(request, token)
        if _refused(response, token):
            again = _replayable(request, response)
            newer = self._grant.report(token) if again else self._grant.report(token, timeout=0)
            if newer is not None and again:
                yield _with(request, newer)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """For `httpx.AsyncClient`. Raises what `Grant.token` raises."""
        if not self._is_async:
            raise InvalidConfiguration("a SyncBroker's grant is for httpx.Client: for httpx.AsyncClient use Broker")
        if not self._pin.holds(str(request.url)):
            yield request
            return
        token = await self._grant.token()
        response = yield _with(request, token)
        if _refused(response, token):
            again = _replayable(request, response)
            newer = await (self._grant.report(token) if again else self._grant.report(token, timeout=0))
            if newer is not None and again:
                yield _with(request, newer)


def _with(request: Any, token: Token) -> Any:
    request.headers["Authorization"] = token.authorization
    return request


def _refused(response: Any, token: Token) -> bool:
    """Whether *token* was refused, by whoever the request ended at."""
    carried: Any = response.request.headers.get("Authorization")
    return bool(response.status_code == 401 and carried == token.authorization)


def _replayable(request: Any, response: Any) -> bool:
    """Whether *request* may be sent again: its body is in memory, and it is what was refused.

    After a redirect that made a GET of it (303), it was served, and what was refused is only what followed.
    """
    if response.request.method != request.method:
        return False
    try:
        request.content  # noqa: B018 - it raises RequestNotRead for a stream
    except RuntimeError:
        return False
    return True
