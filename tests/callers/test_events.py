"""The stream of the status page: it says that something changed, to whom it concerns, and ends when it must."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from broker.api.callers import INCLUDED_IN, Caller
from broker.api.routes import events
from broker.errors import TokenUnavailable
from broker.read.cache import Cache
from broker.read.changes import MOST, Changes
from broker.secret import key_digest
from tests.steps import log_in
from tests.waiting import until

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker

FEW = "few-key-0123456789-0123456789-0123456789"
STREAM = {"Accept": "text/event-stream"}


@asynccontextmanager
async def streaming(broker: RunningBroker, key: str = "") -> AsyncIterator[tuple[Any, list[bytes], asyncio.Task[None]]]:
    """Open the stream; yield the response, what came of it so far, and the task that ends with it."""
    headers = {"X-Broker-Key": key or broker.admin_key, **STREAM}
    async with aiohttp.ClientSession() as session, session.get(broker.url + "/v1/events", headers=headers) as answer:
        got: list[bytes] = []

        async def read() -> None:
            async for chunk in answer.content.iter_any():
                got.append(chunk)

        reading = asyncio.create_task(read())
        try:
            yield answer, got, reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def count(got: list[bytes]) -> int:
    """Return how many events came."""
    return b"".join(got).count(b"event: changed\n")


async def test_a_change_is_an_event(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A login is an event for whoever is admin of the grant; no proxy buffers it, and it names no grant."""
    callers = {"few": {"key_sha256": key_digest(FEW), "admin": ["mine-*"]}}
    async with start_broker(callers=callers) as broker:
        broker.admin_key = FEW
        async with streaming(broker) as (answer, got, _):
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert answer.headers["Cache-Control"] == "no-store"
            await log_in(broker, "mine-1", "acme")
            await until(lambda: count(got) >= 1)
            assert b"mine" not in b"".join(got)


async def test_who_may_not_know_hears_nothing() -> None:
    """A change of other grants is no event; one of a provider is one for all. No change is kept twice."""
    changes = Changes()
    changes.note("nobody-listens", b"{}")
    with changes.listening(lambda grant_id, _: grant_id.startswith("mine-")) as listener:
        changes.note("other-1", b"{}")
        assert not await listener.changed(0.01)
        for _ in range(1000):
            changes.note("mine-1", b"{}")
        assert await listener.changed(5)
        assert not await listener.changed(0.01), "a thousand changes are one mark"
        changes.note_all()
        assert await listener.changed(5)


async def test_places_are_bounded() -> None:
    """Beyond the most that may be open a stream is refused with when to come again; a place that is left is free."""
    changes = Changes()
    opened = [changes.listening(lambda *_: True) for _ in range(MOST)]
    for each in opened:
        each.__enter__()
    with pytest.raises(TokenUnavailable) as error, changes.listening(lambda *_: True):
        pass
    assert error.value.retry_after == 30
    opened.pop().__exit__(None, None, None)
    with changes.listening(lambda *_: True):
        pass


async def test_it_ends_with_the_broker_and_with_the_key(
    start_broker: StartBroker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends when its key is removed, and at once when the broker stops: it holds up neither."""
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.05)
    async with start_broker() as broker, streaming(broker) as (_, got, reading):
        await until(lambda: b": nothing changed" in b"".join(got))
        assert not reading.done()
        began = time.monotonic()
        await broker.stop()
        await asyncio.wait_for(reading, 5)
        assert time.monotonic() - began < 10
    monkeypatch.undo()  # a removed key is noticed at once, not at the next comment
    async with start_broker() as broker, streaming(broker) as (_, got, reading):
        await until(lambda: got)
        (broker.settings.data_dir / "admin.key").write_text("another-key-0123456789-0123456789-0123456789\n")
        assert (await broker.ask("POST", "/v1/reload"))[0] == 200
        await asyncio.wait_for(reading, 5)


async def test_what_is_refused(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Without `Accept` it is no stream but a sentence; without the admin right nothing; HEAD ends."""
    reads = "reads-key-0123456789-0123456789-0123456789"
    async with start_broker(callers={"reads": {"key_sha256": key_digest(reads), "read": ["*"]}}) as broker:
        for key, accept, wanted in ((reads, STREAM, 403), ("unknown", STREAM, 401)):
            status, _, _ = await broker.ask("GET", "/v1/events", headers={"X-Broker-Key": key, **accept})
            assert status == wanted
    async with start_broker() as broker:
        status, body, _ = await broker.ask("GET", "/v1/events")
        assert status == 400
        assert "text/event-stream" in body["error_description"]
        status, _, headers = await broker.ask("HEAD", "/v1/events")
        assert (status, headers["X-Accel-Buffering"]) == (200, "no")


def test_other_providers_changes_are_no_events() -> None:
    """A caller that is kept to some providers hears of their grants alone, whatever patterns of ids it has."""
    everything = dict.fromkeys(INCLUDED_IN, re.compile(".*"))
    permitted = events._permitted(Caller("kept", everything, administers_all=True, providers=re.compile("een")))
    assert permitted("g1", json.dumps({"grant_id": "g1", "provider": "een"}).encode())
    for message in (json.dumps({"grant_id": "g1", "provider": "acme"}).encode(), b"[]", b"{}", b"\xff"):
        assert not permitted("g1", message), message


async def test_streams_leave_connections_for_reads() -> None:
    """Open streams and waiting reads have one limit, the part of all connections that may wait."""
    cache = Cache(10, max_waiting=2)
    with cache.listening(lambda *_: True), cache.listening(lambda *_: True):
        with pytest.raises(TokenUnavailable), cache.listening(lambda *_: True):
            pass
        with pytest.raises(TokenUnavailable):
            await cache.changed("g1", 1)
    assert cache.waiting == 0
