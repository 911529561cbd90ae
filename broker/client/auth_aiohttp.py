"""A grant's token in aiohttp's requests: a client middleware (aiohttp 3.12 or newer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from broker.client.origin import Pin

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

    from broker.client.grant import Grant


class BearerMiddleware:
    """Adds the token, and after a 401 sends the request once more with the next one.

    aiohttp runs it anew for each redirect, with the headers of the first request.
    """

    def __init__(self, grant: Grant, origin: str | None) -> None:
        """For requests to *origin*, or to that of the first one. Raises `InvalidConfiguration`."""
        self._grant = grant
        self._pin = Pin(origin, grant.id)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send *request*. Raises what `Grant.token` raises."""
        if not self._pin.holds(str(request.url)):
            return await handler(request)
        token = await self._grant.token()
        request.headers[hdrs.AUTHORIZATION] = token.authorization
        response = await handler(request)
        if response.status != 401:
            return response
        again = not request.body or not request.body.consumed
        try:
            newer = await self._grant.report(token) if again else await self._grant.report(token, timeout=0)
        except BaseException:
            response.close()
            raise
        if newer is None or not again:
            return response
        response.close()  # and with it what of the body is still on its way
        await request.close()
        request.headers[hdrs.AUTHORIZATION] = newer.authorization
        return await handler(request)
