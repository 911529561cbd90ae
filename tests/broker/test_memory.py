"""What a replica keeps in memory, and what one bad entry may not do to the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from tests.steps import assert_sound
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker


async def spoil(redis: Redis, grant: str) -> None:
    """Seal a grant's fields with a key that nobody has."""
    stranger = Sealer(parse_sealing_keys(new_sealing_key()))
    for name in ("access_token", "refresh_token", "extra"):
        await redis.hset(f"broker:{{0}}:grant:{grant}", name, stranger.seal("x", grant, name))


async def test_one_unreadable_grant_hides_no_other(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A grant that no key opens is listed, said to be unreadable, healed by an import, and can be deleted."""
    async with start_broker() as broker:
        for name in ("g1", "g2", "g3"):
            await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
        await until(lambda: _at_rest(redis, 3))
    for name in ("g1", "g3"):
        await spoil(redis, name)
    async with start_broker(cache={"warm": ["*"]}) as broker:
        assert {row["grant_id"] for row in (await broker.get("/v1/grants"))["grants"]} == {"g1", "g2", "g3"}
        status, body, _ = await broker.ask("GET", "/v1/grants/g1/token")
        assert (status, body["error"]) == (503, "unreadable")
        assert (await broker.ask("GET", "/v1/grants/g1"))[0] == 200
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        status, body, _ = await broker.ask("DELETE", "/v1/grants/g3")
        assert (status, body["revoked"], body["forgotten"]) == (200, False, True)
        await assert_sound(broker, sandbox, ("g1", "acme"), ("g2", "acme"))


async def _at_rest(redis: Redis, many: int) -> bool:
    return bool(await redis.zcard("broker:{0}:due:acme") == many)
