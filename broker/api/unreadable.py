"""What is no HTTP: answered as every error is, in words of ours.

aiohttp's own words repeat what was sent, with a caret under what is wrong: a key with a line's end in it, say. Whoever
sent it would log the answer, and the key with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError

from broker.api.responses import UNREADABLE_BODY, error_response

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler


class _Protocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """As aiohttp's, which closes the connection after it; a 400 in our words, and not logged."""
        if status != 400:  # noqa: PLR2004
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun: it is broken off")
        answer = error_response(400, "invalid_request", _words(exc))
        answer.force_close()
        return answer


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        protocol = super().__call__()
        protocol.__class__ = _Protocol
        return protocol


def answer_unreadable(server: web.Server) -> None:
    """Have *server* answer in our words what it cannot read."""
    server.__class__ = _Server  # a runner makes its server, and lets nobody say of which class


def _words(error: BaseException | None) -> str:
    match error:
        case LineTooLong():
            return "the request line or a header is too long: 8190 bytes are allowed"
        case PayloadEncodingError():
            return UNREADABLE_BODY
        case _:
            return (
                "this is no HTTP request: a header is malformed (a line's end or another control character in a key?), "
                "Host is missing, or the client speaks TLS where plain http is"
            )
