"""A grant's token in requests made with httpx, or with its successor httpx2: an `Auth` for each installed one."""

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
    """Return an `auth` for requests to *origin*; None: to the origin of the first request.

    Defers the import of httpx and httpx2, which are optional.

    Raises:
        InvalidConfiguration: *origin* is not an origin.
        ImportError: neither library is installed.
    """
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
    """The flow of one request: with the token, and after a 401 once more with the next token.

    The flow spans redirects, and httpx itself drops `Authorization` on the way to another origin (except for the
    same host's http on port 80 to https on port 443). So a 401 counts only if the answered request carried the token.
    """

    requires_request_body = False
    requires_response_body = False

    def __init__(self, grant: Any, origin: str | None) -> None:
        self._grant = grant
        self._pin = Pin(origin, grant.id)
        self._is_async = inspect.iscoroutinefunction(grant.token)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Run the flow for `httpx.Client`; raise what `SyncGrant.token` raises."""
        if self._is_async:
            raise InvalidConfiguration("a Broker's grant works with httpx.AsyncClient: for httpx.Client use SyncBroker")
        if not self._pin.allows(str(request.url)):
            yield request
            return
        token = self._grant.token()
        response = yield _with(request, token)
        if _is_rejected(response, token):
            again = _replayable(request, response)
            newer = self._grant.report(token) if again else self._grant.report(token, timeout=0)
            if newer is not None and again:
                yield _with(request, newer)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Run the flow for `httpx.AsyncClient`; raise what `Grant.token` raises."""
        if not self._is_async:
            raise InvalidConfiguration("a SyncBroker's grant works with httpx.Client: for httpx.AsyncClient use Broker")
        if not self._pin.allows(str(request.url)):
            yield request
            return
        token = await self._grant.token()
        response = yield _with(request, token)
        if _is_rejected(response, token):
            again = _replayable(request, response)
            newer = await (self._grant.report(token) if again else self._grant.report(token, timeout=0))
            if newer is not None and again:
                yield _with(request, newer)


def _with(request: Any, token: Token) -> Any:
    request.headers["Authorization"] = token.authorization
    return request


def _is_rejected(response: Any, token: Token) -> bool:
    """Return whether *token* was rejected, by the last server that the request reached."""
    carried: Any = response.request.headers.get("Authorization")
    return bool(response.status_code == 401 and carried == token.authorization)


def _replayable(request: Any, response: Any) -> bool:
    """Return whether *request* may be sent again: its body is in memory, and it is the rejected request.

    After a redirect that made it a GET (303) it was served, and only the GET was rejected.
    """
    if response.request.method != request.method:
        return False
    try:
        _content = request.content  # raises RequestNotRead for a stream
    except RuntimeError:
        return False
    return True
