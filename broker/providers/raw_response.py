"""Responses that aiohttp's parser refuses: their bytes are kept, and read as leniently as a browser reads them.

A server that sends `Content-Length` twice or a header line without colon has rotated the refresh token all the same.
Its answer is the only copy of the new one. What is read here must hold a whole JSON object in a success; anything else
stays unknown. Knows nothing of OAuth.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy

from broker.providers.members import leading_object

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_RAW = 512 * 1024
"""Bytes of a refused response that are read, head and body."""
_MAX_STATUS_LINE = 8192
_FREE_LOOKS = 8
_GROWTH = 1.25
"""A response is looked through at each of its first segments, later only where it has grown by so much: in many small
segments it would cost the square of its size."""

_STATUS_LINE = re.compile(rb"\s*HTTP\S*[ \t]+(\d{3})(?!\d)[^\n]*\n", re.IGNORECASE)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"\s*(?:0[xX])?([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")


@dataclass(slots=True)
class Kept:
    """What has arrived for one request. It is that request's own: the next one on the connection has another."""

    raw: bytearray | None = field(default_factory=bytearray, repr=False)
    """None: it was taken, and no more is kept."""
    refused: bool = False
    """Whether aiohttp's parser refused it."""


class KeepingHandler(ResponseHandler):
    """A connection that keeps the bytes of a response, and reads on where aiohttp's parser gives up."""

    def keep(self) -> Kept:
        """Keep what arrives for the request that is sent next; its parser is set already."""
        kept = Kept()
        if self._parser is not None:
            self._parser = _Parser(self._parser, self, kept)  # type: ignore[assignment]
        return kept


class _Parser:
    """Aiohttp's parser of one response, which is asked no more once it refused the head."""

    def __init__(self, parser: Any, handler: KeepingHandler, kept: Kept) -> None:
        self._parser = parser
        self._handler = handler
        self._kept = kept
        self._error: Exception | None = None
        self._has_head = False
        self._looks = 0
        self._next_look = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        raw = self._kept.raw
        if raw is not None and len(raw) <= MAX_RAW:
            raw += data
        if self._error is None:
            try:
                found: tuple[Sequence[Any], bool, bytes] = self._parser.feed_data(data)
            except Exception as error:
                self._kept.refused = True
                if self._has_head or raw is None:
                    if (payload := self._handler._payload) is not None:  # noqa: SLF001 - else its reader may wait on
                        payload.set_exception(ClientPayloadError())
                    raise
                self._error = error
            else:
                self._has_head = self._has_head or any(message.code >= 200 for message, _ in found[0])
                return found
        if raw is None or len(raw) > MAX_RAW or _is_no_success(raw) or (b"}" in data and self._is_whole(raw)):
            raise self._error
        return (), False, b""

    def _is_whole(self, raw: bytearray) -> bool:
        """Return whether *raw* is known to hold all that counts; what is not is read at the end of the time limit."""
        if self._looks >= _FREE_LOOKS and len(raw) < self._next_look:
            return False
        self._looks += 1
        self._next_look = int(len(raw) * _GROWTH)
        return reread(bytes(raw)) is not None

    def feed_eof(self) -> Any:
        return None if self._error is not None else self._parser.feed_eof()


def _is_no_success(raw: bytearray) -> bool:
    """Return whether what has arrived begins no success, nor an interim response: then further bytes bring nothing."""
    start = bytes(raw[:_MAX_STATUS_LINE]).lstrip()
    if b"\n" not in start:
        return len(raw) > _MAX_STATUS_LINE or start[:4].upper() != b"HTTP"[: len(start)]
    status = _STATUS_LINE.match(start)
    return status is None or status[1][:1] not in b"12"


def reread(raw: bytes) -> tuple[int, CIMultiDictProxy[str], bytes] | None:
    """Return status, headers and JSON object of a success that aiohttp's parser refused; None: there is none."""
    at = 0
    while (status := _STATUS_LINE.match(raw, at)) and (end := _HEAD_END.search(raw, status.end() - 2)):
        if status[1].startswith(b"1"):  # RFC 9110 §15.2: the final response follows
            at = end.end()
            continue
        if not status[1].startswith(b"2"):
            return None
        headers = _headers(raw[status.end() : end.start()])
        body = raw[end.end() :]
        for candidate in (_unchunk(body), body):
            if (whole := first_object(candidate)) is not None:
                return int(status[1]), CIMultiDictProxy(headers), whole
        return None
    return None


def _headers(lines: bytes) -> CIMultiDict[str]:
    """Return the header fields; a line without name or colon is none."""
    headers = CIMultiDict[str]()
    for line in lines.decode("latin-1").split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip():
            headers.add(name.strip(), value.strip())
    return headers


def _unchunk(body: bytes) -> bytes:
    """Return what the chunks of *body* hold, as far as they are chunks (RFC 9112 §7.1)."""
    found, at = bytearray(), 0
    while (size := _CHUNK_SIZE.match(body, at)) and (length := int(size[1], 16)):
        found += body[size.end() : size.end() + length]
        at = size.end() + length
    return bytes(found)


def first_object(body: bytes) -> bytes | None:
    """Return the JSON object that *body* begins with; what follows it is ignored."""
    # In Latin-1 each byte is a character, so that the bytes of the object are what they were.
    found = leading_object(body.removeprefix(BOM_UTF8).decode("latin-1"))
    return None if found is None else found[1].encode("latin-1")
