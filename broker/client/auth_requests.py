"""A grant's token in the requests of requests: an `AuthBase`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.auth import AuthBase

from broker.client.origin import Pin

if TYPE_CHECKING:
    from broker.client.sync import SyncGrant
    from broker.client.token import Token


class BearerAuth(AuthBase):
    """Adds the token, and after a 401 sends the request once more with the next one.

    requests itself drops `Authorization` on the way to another origin (but for the same host's http on port 80 to
    https on port 443); hooks go along. So a 401 counts only where the answered request carried the token.
    """

    def __init__(self, grant: SyncGrant, origin: str | None) -> None:
        """For requests to *origin*, or to that of the first one. Raises `InvalidConfiguration`."""
        self._grant = grant
        self._pin = Pin(origin, grant.id)

    def __call__(self, request: Any) -> Any:
        """Prepare *request*. Raises what `SyncGrant.token` raises."""
        if self._pin.holds(request.url):
            token = self._grant.token()
            request.headers["Authorization"] = token.authorization
            request.register_hook("response", _Answered(self._grant, token, request.body))
        return request


class _Answered:
    """Looks at the answers to one request and its redirects; at most one of them is asked for again."""

    def __init__(self, grant: SyncGrant, token: Token, body: Any) -> None:
        self._grant = grant
        self._token = token
        self._done = False
        self._start: int | None = None
        """Where a file's part that was sent begins."""
        if hasattr(body, "seek"):
            try:
                self._start = body.tell()
            except OSError:
                pass

    def __call__(self, response: Any, **options: Any) -> Any:
        request = response.request
        refused = response.status_code == 401 and request.headers.get("Authorization") == self._token.authorization
        if not refused or self._done:
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
        response.content  # noqa: B018 - read, so that its connection can be used again
        response.close()
        # In place: a redirect that follows is made from this very request.
        request.headers["Authorization"] = newer.authorization
        answer = response.connection.send(request, **options)
        answer.history.append(response)
        answer.request = request
        return answer
