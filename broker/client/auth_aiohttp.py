"""A grant's token in requests made with aiohttp: a client middleware (aiohttp 3.12 or newer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from broker.client.origin import Pin

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

    from broker.client.grant import Grant


class BearerMiddleware:
    """Add the token, and after a 401 send the request once more with the next token.

    aiohttp calls it again for each redirect, with the headers of the first request.
    """

    def __init__(self, grant: Grant, origin: str | None) -> None:
        """Add the token to requests to *origin*; None: to the origin of the first request.

        Raises:
            InvalidConfiguration: *origin* is not an origin.
        """
        self._grant = grant
        self._pin = Pin(origin, grant.id)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send *request*; raise what `Grant.token` raises."""
        if not self._pin.allows(str(request.url)):
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
        response.close()  # also drops the rest of its body
        await request.close()
        request.headers[hdrs.AUTHORIZATION] = newer.authorization
        return await handler(request)
