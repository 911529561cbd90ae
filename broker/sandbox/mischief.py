"""Performs the faults that were ordered, down to what a socket can be made to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from broker.sandbox.forms import refusal
from broker.sandbox.refusal import INVALID_CLIENT, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.sandbox.authority import Authority
    from broker.sandbox.faults import Fault

    Process = Callable[[], Awaitable[web.Response]]

_BREAKING: Final = frozenset({"refuse", "hang", "reset", "truncate", "drip"})


async def perform(
    fault: Fault | None, request: web.Request, authority: Authority, process: Process
) -> tuple[web.StreamResponse, bool]:
    """Answer *request* by *process*, or as *fault* has it.

    Returns:
        The response, and whether a complete answer goes out with it.

    """
    if fault is None:
        return await process(), True
    if fault.kind in _BREAKING:
        return await _broken(fault, request, process)
    return await _misled(fault, authority, process), True


async def _misled(fault: Fault, authority: Authority, process: Process) -> web.Response:
    """Answer something else."""
    match fault.kind:
        case "status":
            return _stated(fault, 503)
        case "body":
            return _stated(fault, 200)
        case "status_after":
            await process()
            return _stated(fault, 500)
        case "invalid_client":
            if fault.after_rotation:
                await process()
            return refusal(Refused(INVALID_CLIENT, "as ordered"), authority)
        case _:
            return _overridden(await process(), fault, authority)


async def _broken(fault: Fault, request: web.Request, process: Process) -> tuple[web.StreamResponse, bool]:
    """Break the connection, or let it crawl."""
    if fault.kind == "drip":
        return await _dripped(request, await process(), fault)
    if fault.kind == "truncate":
        return await _cut_short(request, await process(), reset=False), False
    answer = await process() if fault.after_rotation else web.json_response({"error": "never sent"})
    if fault.kind == "reset":
        return await _cut_short(request, answer, reset=True), False
    if fault.kind == "hang":
        await fault.released.wait()
    return _closed(request), False


def _stated(fault: Fault, default: int) -> web.Response:
    status = fault.status or default
    body = f"{status}, as ordered".encode() if fault.body is None else fault.body
    response = web.Response(status=status, body=body)
    response.content_type = fault.content_type or "text/plain"
    response.headers.update(fault.headers)
    return response


def _overridden(response: web.Response, fault: Fault, authority: Authority) -> web.Response:
    if response.status >= web.HTTPBadRequest.status_code:
        return response
    answer: dict[str, Any] = json.loads(_bytes(response))
    for name, value in fault.members.items():
        if value is None:
            answer.pop(name, None)
            continue
        answer[name] = value
        if isinstance(value, str) and name in {"access_token", "refresh_token", "id_token"}:
            authority.note_secret(value)
    response.body = json.dumps(answer).encode()
    return response


def _closed(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()  # never written: the connection is gone


async def _cut_short(request: web.Request, response: web.Response, *, reset: bool) -> web.StreamResponse:
    body, transport = _bytes(response), request.transport
    if transport is None:
        return response  # the client went first
    if not body:
        transport.write(b"HTTP/1.1 2")  # without a body, it is the status line that ends too early
        _close(transport, reset=reset)
        return response
    partial = await _begin(request, response, len(body))
    with contextlib.suppress(ConnectionError):
        await partial.write(body[: len(body) // 2])
    _close(transport, reset=reset)
    return partial


def _close(transport: asyncio.Transport, *, reset: bool) -> None:
    if not reset:
        transport.close()
        return
    raw: socket.socket = transport.get_extra_info("socket")
    # Linger of zero turns the close into a RST.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _dripped(request: web.Request, response: web.Response, fault: Fault) -> tuple[web.StreamResponse, bool]:
    body = _bytes(response)
    partial = await _begin(request, response, len(body))
    for position in range(len(body)):
        if request.transport is None or await _is_released(fault):
            _closed(request)
            return partial, False
        with contextlib.suppress(ConnectionError):
            await partial.write(body[position : position + 1])
    return partial, True


async def _is_released(fault: Fault) -> bool:
    """Let one interval pass; tell whether the request was let go meanwhile."""
    try:
        await asyncio.wait_for(fault.released.wait(), fault.interval)
    except TimeoutError:
        return False
    return True


async def _begin(request: web.Request, response: web.Response, length: int) -> web.StreamResponse:
    partial = web.StreamResponse(status=response.status, headers=response.headers)
    partial.content_length = length
    with contextlib.suppress(ConnectionError):
        await partial.prepare(request)
    return partial


def _bytes(response: web.Response) -> bytes:
    body = response.body
    return body if isinstance(body, bytes) else b""
