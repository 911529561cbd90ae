"""Open the store: the server behind the URL, its identity, and whether the sealing keys open it."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings, WrongStore
from broker.secret import CannotOpen, Sealer
from broker.store.attempts import Attempts
from broker.store.clock import Clock, uptime
from broker.store.clock_steps import ClockSteps
from broker.store.day import Day
from broker.store.flows import Flows
from broker.store.grants import Grants
from broker.store.history import History
from broker.store.lost import Lost
from broker.store.notices import Notices
from broker.store.redis.embedded import embedded_server
from broker.store.redis.moved import describe_move
from broker.store.redis.primary import Primary
from broker.store.redis.replies import EMPTY, OTHER, wrong_store
from broker.store.registry import Registry
from broker.store.resealing import BINDS, CANARY, CANARY_BOUND, Resealing
from broker.store.schedule import Schedule
from broker.store.scripts import Keys
from broker.store.seals import Seals
from broker.store.soonest import Soonest
from broker.store.urgency import INDEXED, Urgency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from broker.model import OldToken
    from broker.settings import Redis

SCHEMA = 1


@dataclass(slots=True)
class Store:
    """What other packages use of Redis. `identify` must have passed before anything is claimed."""

    primary: Primary
    keys: Keys
    grants: Grants
    schedule: Schedule
    registry: Registry
    flows: Flows
    history: History
    day: Day
    attempts: Attempts
    lost: Lost
    soonest: Soonest
    urgency: Urgency
    notices: Notices
    resealing: Resealing
    seals: Seals
    clock: Clock
    clock_steps: ClockSteps
    sealer: Sealer

    @property
    def store_id(self) -> str:
        """The store's own id, once `identify` has passed; empty before."""
        return self.primary.store_id

    async def identify(self, known: str | None = None) -> None:
        """Learn the store's id, made with the schema key when Redis is empty and no store was *known* before.

        Raises:
            StoreUnavailable: Redis did not reply.
            WrongStore: the server holds another store than the *known* one, or none.
            InvalidSettings: the data there has another schema, or is sealed with keys that this broker lacks.
        """
        asked = uptime()
        self.clock.observe_time(await self.primary.call("TIME"), asked)
        if known is None:
            await self._begin()
        schema, store_id, sealed, binds = await self.primary.call(
            "HMGET", self.keys.meta, "schema", "store", "canary", BINDS
        )
        if store_id is not None and describe_move(store_id.decode()):
            raise wrong_store(store_id.decode())
        if known is not None and (store_id or b"").decode() != known:
            what = "is empty" if store_id is None else f"holds another store ({store_id.decode()})"
            raise WrongStore(
                f"Redis {what}, but this broker knows store {known}", cure=EMPTY if store_id is None else OTHER
            )
        if (unknown := unknown_schema(schema)) is not None:
            raise InvalidSettings(f"redis: the data under namespace {self.keys.namespace!r} {unknown}")
        try:
            canary = self.sealer.open(sealed or b"", *CANARY, purpose="meta")
        except CannotOpen:
            raise InvalidSettings(
                "sealing.keys_file: none of its keys opens what is stored in this Redis: put the old key back into "
                "the file, below the new one"
            ) from None
        self.sealer.binds = self.sealer.binds or binds is not None
        # The canary is sealed: whoever writes Redis can take the note `sealing` away, but not this.
        self.sealer.requires_bound = self.sealer.requires_bound or canary == CANARY_BOUND
        self.primary.mark = (self.keys.meta, store_id.decode())

    async def _begin(self) -> None:
        """Mark an empty Redis as a new store; leave a marked one as it is."""
        new: dict[str, str | bytes | int] = {"schema": SCHEMA, "store": secrets.token_hex(8), BINDS: "bound"}
        new["canary"] = self.sealer.seal_bound(CANARY_BOUND, *CANARY, purpose="meta")
        new[INDEXED] = 1  # there is nothing yet that the index could lack
        # All of them or none: two brokers that start on an empty server agree on one identity.
        await self.primary.call(
            "EVAL",
            "if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) "
            "redis.call('HSET', KEYS[2], 'run_id', 'new') end return 1",
            2,
            self.keys.meta,
            self.keys.epoch,
            *(part for pair in new.items() for part in pair),
        )


def unknown_schema(schema: bytes | None) -> str | None:
    """Return what is wrong with the schema of a store's data, and what to do; None for this version's."""
    if schema == str(SCHEMA).encode():
        return None
    found = (schema or b"0").decode("utf-8", "replace")[:32]
    found = found if found.isdigit() else ascii(found)
    return (
        f"has schema {found}, this version reads {SCHEMA}: run the version that wrote it, or choose another "
        "redis.namespace"
    )


@asynccontextmanager
async def open_store(
    redis: Redis,
    sealer: Sealer,
    *,
    data_dir: Path,
    password: str | None = None,
    hold_off: timedelta = timedelta(seconds=15),
    old_tokens: Mapping[str, OldToken] = MappingProxyType({}),
) -> AsyncIterator[Store]:
    """Open the store that the settings name, without waiting for it.

    `embedded:` starts or joins the server in *data_dir*.

    Args:
        redis: the settings.
        sealer: of tokens.
        data_dir: holds the embedded store.
        password: of Redis.
        hold_off: longest from a token request to its commit. After Redis turned out to be another run than before
            nobody claims for so long, and the second term of a lease that ended is so long.
        old_tokens: by provider, what a refresh does to the access token before it.
    """
    async with AsyncExitStack() as stack:
        url = redis.url
        if url.startswith("embedded:"):
            url = await stack.enter_async_context(embedded_server(data_dir))
        primary = Primary(url, password=password)
        stack.push_async_callback(primary.close)
        yield _wire(primary, redis, sealer, hold_off, old_tokens)


def _wire(
    primary: Primary, redis: Redis, sealer: Sealer, hold_off: timedelta, old_tokens: Mapping[str, OldToken]
) -> Store:
    keys, clock = Keys(redis.namespace), Clock()
    primary.mark = (keys.meta, "")  # until `identify`
    grants = Grants(primary, keys, sealer, old_tokens, clock)
    hold_off_ms = hold_off // timedelta(milliseconds=1)
    schedule = Schedule(
        primary,
        keys,
        grants,
        clock,
        replicas=redis.replicas,
        second_term_ms=hold_off_ms,
        # The embedded store syncs every write to the disk that it shares with the broker: another run lost nothing.
        hold_off_ms=0 if redis.url.startswith("embedded:") else hold_off_ms,
    )
    registry = Registry(primary, keys, grants, clock)
    return Store(
        primary=primary,
        keys=keys,
        grants=grants,
        schedule=schedule,
        registry=registry,
        flows=Flows(primary, keys, sealer),
        history=History(primary, keys),
        day=Day(primary, keys),
        attempts=Attempts(primary, keys, clock),
        lost=Lost(primary, keys, registry, clock),
        soonest=Soonest(primary, keys),
        urgency=Urgency(primary, keys, grants, clock),
        notices=Notices(primary, keys, clock),
        resealing=Resealing(primary, keys, sealer, replicas=redis.replicas),
        seals=Seals(primary, keys, sealer),
        clock=clock,
        clock_steps=ClockSteps(primary, keys, clock),
        sealer=sealer,
    )
