"""A grant's token in requests made with the library `requests`: an `AuthBase`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.auth import AuthBase

from broker.client.origin import Pin

if TYPE_CHECKING:
    from broker.client.sync import SyncGrant
    from broker.client.token import Token


class BearerAuth(AuthBase):
    """Add the token, and after a 401 send the request once more with the next token.

    requests itself drops `Authorization` on the way to another origin (except for the same host's http on port 80 to
    https on port 443), but keeps hooks. So a 401 counts only if the answered request carried the token.
    """

    def __init__(self, grant: SyncGrant, origin: str | None) -> None:
        """Add the token to requests to *origin*; None: to the origin of the first request.

        Raises:
            InvalidConfiguration: *origin* is not an origin.
        """
        self._grant = grant
        self._pin = Pin(origin, grant.id)

    def __call__(self, request: Any) -> Any:
        """Prepare *request*; raise what `SyncGrant.token` raises."""
        if self._pin.allows(request.url):
            token = self._grant.token()
            request.headers["Authorization"] = token.authorization
            request.register_hook("response", _Resender(self._grant, token, request.body))
        return request


class _Resender:
    """Check the responses to one request and its redirects; send at most one of them again."""

    def __init__(self, grant: SyncGrant, token: Token, body: Any) -> None:
        self._grant = grant
        self._token = token
        self._done = False
        self._start: int | None = None
        """Where the sent part of a file begins."""
        if hasattr(body, "seek"):
            try:
                self._start = body.tell()
            except OSError:
                pass

    def __call__(self, response: Any, **options: Any) -> Any:
        request = response.request
        rejected = response.status_code == 401 and request.headers.get("Authorization") == self._token.authorization
        if not rejected or self._done:
            return response
        self._done = True
        again = request.body is None or isinstance(request.body, str | bytes) or self._start is not None
        try:
            newer = self._grant.report(self._token) if again else self._grant.report(self._token, timeout=0)
        except BaseException:
            response.close()
            raise
        if newer is None or not again:
            return response
        if self._start is not None:
            request.body.seek(self._start)
        _content = response.content  # reads it, so that its connection can be used again
        response.close()
        # Change this request itself: a redirect that follows is made from it.
        request.headers["Authorization"] = newer.authorization
        answer = response.connection.send(request, **options)
        answer.history.append(response)
        answer.request = request
        return answer
