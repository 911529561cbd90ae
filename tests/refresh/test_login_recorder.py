"""A login that succeeded is registered once, whatever becomes of the replies."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from broker.journal.journal import Journal
from broker.login.held import Answer, parse_answer
from broker.login.recorder import LoginRecorder
from broker.model import GrantLife, TokenResponse
from broker.model.account import Account
from broker.providers import Dialect
from broker.read import Cache
from broker.refresh.scheduler import Scheduler
from broker.secret import Sealer, Secret, new_sealing_key, parse_sealing_keys
from broker.settings import Provider
from broker.settings import Redis as RedisSettings
from broker.store import open_store, scripts
from tests.conftest import provider_settings
from tests.proxy import RedisProxy
from tests.store.steps import claimed, commit_of
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.redis_server import RedisServer


@pytest.mark.parametrize("refreshed", [False, True])
async def test_a_lost_reply_registers_no_second_time(
    shared_redis: RedisServer, redis: Redis, sandbox: Sandbox, tmp_path: Path, refreshed: bool
) -> None:
    """A login whose reply was lost stands; what another broker made of its refresh token since is not undone."""
    dialect = Dialect.from_settings("acme", Provider(**provider_settings(sandbox)["acme"]))
    sealer = Sealer(parse_sealing_keys(new_sealing_key()))
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(RedisProxy(shared_redis.port))
        ours, other = [
            await stack.enter_async_context(open_store(RedisSettings(url=url), sealer, data_dir=tmp_path))
            for url in (proxy.url, shared_redis.url)
        ]
        for store in (ours, other):
            await store.identify()
        journal = await Journal.open(tmp_path / "journal", sealer, ours.clock)
        cache = Cache(10)
        recorder = LoginRecorder(ours, journal, cache=cache, scheduler=Scheduler(ours.schedule), notice=False)
        await redis.script_load(scripts.REGISTER.text)
        proxy.drop_reply(scripts.REGISTER)
        # Without an access token that can be served it is due at once.
        answer = TokenResponse(None, Secret("r1"), "Bearer", None, None, None, {}, problem="unusable")
        recording = asyncio.create_task(recorder.record("g1", answer, dialect))
        await until(lambda: redis.exists("broker:{0}:grant:g1"))
        if refreshed:
            (claim,) = await until(lambda: claimed(other, 1, "acme"))
            assert (await other.schedule.commit(other.registry.prepare(commit_of(claim, refresh="r2"))))[
                0
            ] == "committed"
        generation = await redis.hget("broker:{0}:grant:g1", "generation")
        logged_in = await asyncio.wait_for(recording, 10)
        assert logged_in.grant_id == "g1"
        assert await redis.hget("broker:{0}:grant:g1", "generation") == generation
        assert await other.grants.refresh_token("g1") == ("acme", Secret("r2" if refreshed else "r1"))
        for entry in journal.entries():
            assert await ours.registry.restore(entry.text) == "known"
        assert await other.grants.refresh_token("g1") == ("acme", Secret("r2" if refreshed else "r1"))
        assert [token.generation for token in cache.tokens()] == [int(generation or 0)] or refreshed
        await journal.close()


async def test_a_login_is_a_new_generation_within_one_millisecond(
    shared_redis: RedisServer, redis: Redis, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each login of a grant has a generation of its own, also in one millisecond or after the clock was set back."""
    dialect = Dialect.from_settings("acme", Provider(**provider_settings(sandbox)["acme"]))
    sealer = Sealer(parse_sealing_keys(new_sealing_key()))
    async with open_store(RedisSettings(url=shared_redis.url), sealer, data_dir=tmp_path) as store:
        await store.identify()
        journal = await Journal.open(tmp_path / "journal", sealer, store.clock)
        cache = Cache(10)
        recorder = LoginRecorder(store, journal, cache=cache, scheduler=Scheduler(store.schedule), notice=False)
        now = store.clock()
        for number, ago in enumerate((0, 0, 5)):
            monkeypatch.setattr(type(store.clock), "__call__", lambda _, at=now - ago: at)
            answer = TokenResponse(Secret(f"a{number}"), Secret(f"r{number}"), "Bearer", 3_600_000, None, None, {})
            await recorder.record("g1", answer, dialect)
            (served,) = cache.tokens()
            assert served.access_token == Secret(f"a{number}")
            stored = await store.grants.get("g1")
            assert stored is not None
            assert stored.generation == served.generation == now + number
            (entry,) = journal.entries()
            assert await store.registry.restore(entry.text) == "known"
        await journal.close()


async def test_a_login_counts_from_when_its_token_was_issued(
    shared_redis: RedisServer, redis: Redis, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A login whose answer was read 22 s late is served for what is left; its grant's limit counts from there too."""
    settings = provider_settings(sandbox)["acme"] | {"absolute_limit": "1h"}
    dialect = Dialect.from_settings("acme", Provider(**settings))
    sealer = Sealer(parse_sealing_keys(new_sealing_key()))
    async with open_store(RedisSettings(url=shared_redis.url), sealer, data_dir=tmp_path) as store:
        await store.identify()
        cache = Cache(10)
        recorder = LoginRecorder(store, None, cache=cache, scheduler=Scheduler(store.schedule), notice=False)
        issued_at = store.clock() - 22_000
        answer = TokenResponse(Secret("a"), Secret("r"), "Bearer", 30_000, None, None, {}, issued_at=issued_at)
        await recorder.record("g1", answer, dialect)
        (served,) = cache.tokens()
        stored = await store.grants.get("g1")
        assert stored is not None
        assert stored.token is not None
        for token in (served, stored.token):
            assert (token.issued_at, token.expires_at) == (issued_at, issued_at + 30_000)
            assert store.clock() <= token.refresh_at
            assert token.generation >= issued_at + 22_000
        assert (stored.granted_at, stored.reauthorize_by) == (issued_at, issued_at + 3_600_000)


def test_an_answer_that_waits_is_kept_whole() -> None:
    """What an exchange brought comes out of the flow as it went in, tokens and limits included."""
    life = GrantLife(refresh_token_ms=0, idle_ms=7)
    tokens = (Secret("a"), Secret("r\udce9"), "Bearer", 5, None, "s", {"x": [1]})
    answer = TokenResponse(*tokens, warnings=("w",), id_token=Secret("i"), grant_life=life, issued_at=8)
    held = Answer(answer, 9, Account("s1", "j@example.com"), Account("s2"))
    assert parse_answer(held.serialize()) == held
    assert "Secret" in repr(held)
    assert "udce9" not in repr(held)
