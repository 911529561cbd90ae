"""Perform the faults that were ordered, down to the socket."""

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
    """Respond to *request* by *process*, or as *fault* says.

    Returns:
        The response, and whether it is sent completely.

    """
    if fault is None:
        return await process(), True
    if fault.kind in _BREAKING:
        return await _break(fault, request, process)
    return await _replace(fault, authority, process), True


async def _replace(fault: Fault, authority: Authority, process: Process) -> web.Response:
    """Respond with something else."""
    match fault.kind:
        case "status":
            return _configured(fault, 503)
        case "body":
            return _configured(fault, 200)
        case "status_after":
            await process()
            return _configured(fault, 500)
        case "invalid_client":
            if fault.after_rotation:
                await process()
            return refusal(Refused(INVALID_CLIENT, "as ordered"), authority)
        case _:
            return _override(await process(), fault, authority)


async def _break(fault: Fault, request: web.Request, process: Process) -> tuple[web.StreamResponse, bool]:
    """Break the connection, or slow it down."""
    if fault.kind == "drip":
        return await _drip(request, await process(), fault)
    if fault.kind == "truncate":
        return await _cut(request, await process(), reset=False), False
    response = await process() if fault.after_rotation else web.json_response({"error": "never sent"})
    if fault.kind == "reset":
        return await _cut(request, response, reset=True), False
    if fault.kind == "hang":
        await fault.released.wait()
    return _disconnect(request), False


def _configured(fault: Fault, default: int) -> web.Response:
    status = fault.status or default
    body = f"{status}, as ordered".encode() if fault.body is None else fault.body
    response = web.Response(status=status, body=body)
    response.content_type = fault.content_type or "text/plain"
    response.headers.update(fault.headers)
    return response


def _override(response: web.Response, fault: Fault, authority: Authority) -> web.Response:
    if response.status >= web.HTTPBadRequest.status_code:
        return response
    members: dict[str, Any] = json.loads(_bytes(response))
    for name, value in fault.members.items():
        if value is None:
            members.pop(name, None)
            continue
        members[name] = value
        if isinstance(value, str) and name in {"access_token", "refresh_token", "id_token"}:
            authority.note_secret(value)
    response.body = json.dumps(members).encode()
    return response


def _disconnect(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()  # never written: the connection is gone


async def _cut(request: web.Request, response: web.Response, *, reset: bool) -> web.StreamResponse:
    body, transport = _bytes(response), request.transport
    if transport is None:
        return response  # the client left first
    if not body:
        transport.write(b"HTTP/1.1 2")  # without a body the status line ends too early
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


async def _drip(request: web.Request, response: web.Response, fault: Fault) -> tuple[web.StreamResponse, bool]:
    body = _bytes(response)
    partial = await _begin(request, response, len(body))
    for position in range(len(body)):
        if request.transport is None or await _is_released(fault):
            _disconnect(request)
            return partial, False
        with contextlib.suppress(ConnectionError):
            await partial.write(body[position : position + 1])
    return partial, True


async def _is_released(fault: Fault) -> bool:
    """Wait for one interval; return whether the request was released meanwhile."""
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
