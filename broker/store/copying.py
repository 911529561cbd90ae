"""Copy every key of a namespace from one Redis to another, and compare them: page by page, and safe to repeat.

Copies by type and not with DUMP, whose format another version, or Valkey instead of Redis, may not read. Knows nothing
of what keys mean, nor of whether a broker writes meanwhile: `moving` sees to that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.errors import StoreUnavailable
from broker.store import scripts
from broker.store.resealing import literally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

PAGE = 250
"""Keys that are read together."""
_PART = 1000
"""Items of one key that are read together."""
_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
NEEDED: Sequence[tuple[str, ...]] = (
    ("TYPE", "{key}"),
    ("PTTL", "{key}"),
    ("PEXPIRE", "{key}", "1"),
    ("HSCAN", "{key}", "0"),
    ("LLEN", "{key}"),
)
"""Commands that a move sends, and a broker does not."""
_SIZE = {"hash": "HLEN", "zset": "ZCARD", "list": "LLEN"}


@dataclass(frozen=True, slots=True)
class _Key:
    name: bytes
    kind: str
    ttl_ms: int
    """Below 0: it does not expire."""
    first: Any
    """The reply to the read of its first part."""
    size: int
    """How many items it has."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a key: its items as HSET, ZADD, RPUSH or SET takes them."""

    items: list[bytes]
    begins: bool
    start: int
    """How many items of a list or a sorted set stand before it."""


async def run_id(primary: Primary) -> str:
    """Return which run of the server this is; empty where it does not say."""
    found = _RUN_ID.search(await primary.call("INFO", "server"))
    return found[1].decode() if found else ""


class Copy:
    """Copies the keys of one Redis to another. The target's `primary.mark` names the only store that is written.

    Args:
        source: What is read.
        target: What is written.
        keys: Of the namespace.
    """

    def __init__(self, source: Primary, target: Primary, keys: scripts.Keys) -> None:
        self._source = source
        self._target = target
        self._keys = keys
        self._apart = {keys.meta.encode(), keys.epoch.encode()}

    async def first_keys(self, primary: Primary, most: int) -> list[str]:
        """Return names of up to *most* keys of the namespace."""
        found: list[str] = []
        async for _, names in self._pages(primary, "0"):
            found += [name.decode("utf-8", "backslashreplace") for name in names]
            if len(found) >= most:
                break
        return sorted(found)[:most]

    async def copy(self, cursor: str, report: Callable[[str, int, int], Any]) -> None:
        """Copy all keys but `meta` and `epoch`.

        Args:
            cursor: Where to go on; "0": at the beginning.
            report: Awaited after each page: the next cursor, and how many grants and keys the page had.

        Raises:
            StoreUnavailable: one of the two did not answer; go on at the last cursor.
        """
        async for after, names in self._pages(self._source, cursor):
            keys = await self._read(names)
            await self._write(keys)
            await report(after, self._grants(keys), len(keys))

    async def compare(self, report: Callable[[int, int, int], None]) -> list[str]:
        """Compare all keys, and copy those again that differ; remove those that only the target has.

        Args:
            report: Called after each page: how many grants, keys and different keys it had.

        Returns:
            The names of the keys that differed.
        """
        different: list[bytes] = []
        async for _, names in self._pages(self._source, "0"):
            keys = await self._read(names)
            unlike = await self._unlike(keys)
            await self._write(unlike)
            different += [key.name for key in unlike]
            report(self._grants(keys), len(keys), len(unlike))
        async for _, names in self._pages(self._target, "0"):
            there = await self._source.pipeline([("EXISTS", name) for name in names])
            surplus = [name for name, exists in zip(names, there, strict=True) if not exists]
            await self._remove(surplus)
            different += surplus
        return [name.decode("utf-8", "replace") for name in different]

    async def clear(self) -> None:
        """Remove every key of the namespace from the target, `meta` last."""
        async for _, names in self._pages(self._target, "0"):
            await self._remove(names)
        for key in (self._keys.epoch, self._keys.meta):
            await self._remove([key.encode()])

    async def _pages(self, primary: Primary, cursor: str) -> AsyncIterator[tuple[str, list[bytes]]]:
        """Yield the next cursor and the names of each page of keys."""
        pattern = literally(self._keys.all) + "*"
        while True:
            after, found = await primary.call("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)
            cursor = after.decode()
            yield cursor, [name for name in dict.fromkeys(found) if name not in self._apart]
            if cursor == "0":
                return

    def _grants(self, keys: Iterable[_Key]) -> int:
        return sum(key.name.startswith(self._keys.grants.encode()) for key in keys)

    async def _read(self, names: Sequence[bytes]) -> list[_Key]:
        """Return type, time to live and first part of each key; one that has expired is missing."""
        asked: list[tuple[Argument, ...]] = [(verb, name) for name in names for verb in ("TYPE", "PTTL")]
        replies = await self._source.pipeline(asked)
        known = [
            (name, kind.decode(), ttl)
            for name, kind, ttl in zip(names, replies[::2], replies[1::2], strict=True)
            if kind != b"none"
        ]
        parts: list[tuple[Argument, ...]] = []
        for name, kind, _ in known:
            parts += [_read_part(name, kind, "0", 0), (_SIZE.get(kind, "EXISTS"), name)]
        read = await self._source.pipeline(parts)
        return [
            _Key(*key, first, size)
            for key, first, size in zip(known, read[::2], read[1::2], strict=True)
            if first is not None
        ]

    async def _parts(self, key: _Key) -> AsyncIterator[_Part]:
        """Yield a key part by part; the source must not change meanwhile."""
        reply, start = key.first, 0
        while True:
            cursor, items = (reply[0].decode(), list(reply[1])) if key.kind == "hash" else ("0", _items(key, reply))
            if items:
                yield _Part(items, begins=start == 0, start=start)
            start += len(items) // (2 if key.kind == "zset" else 1)
            full = key.kind in {"zset", "list"} and len(items) >= _PART * (2 if key.kind == "zset" else 1)
            if not full and cursor == "0":
                return
            reply = await self._source.call(*_read_part(key.name, key.kind, cursor, start))

    async def _write(self, keys: Iterable[_Key]) -> None:
        """Write keys, each as a whole: a key that was begun before is replaced."""
        calls: list[tuple[Sequence[str], Sequence[Argument]]] = []
        size = 0
        for key in keys:
            async for part in self._parts(key):
                calls.append(_receive(key.name, key.kind, part, key.ttl_ms))
                size += len(part.items)
                if size > 20 * _PART:
                    await self._send(calls)
                    calls, size = [], 0
        await self._send(calls)

    async def _remove(self, names: Sequence[bytes]) -> None:
        await self._send([_receive(name, "none", _Part([], begins=True, start=0), -1) for name in names])

    async def _send(self, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> None:
        if not calls:
            return
        for reply in await self._target.run_each(scripts.RECEIVE, calls):
            if isinstance(reply, StoreUnavailable):
                raise reply

    async def _unlike(self, keys: Sequence[_Key]) -> list[_Key]:
        """Return those of *keys* that the target holds otherwise, or not at all."""
        asked: list[tuple[Argument, ...]] = []
        parts = [await self._first_part(key) for key in keys]
        for key, part in zip(keys, parts, strict=True):
            asked += [("PTTL", key.name), (_SIZE.get(key.kind, "EXISTS"), key.name)]
            asked += [_read_same(key, part)]
        replies = iter(await self._target.pipeline(asked))
        unlike = []
        for key, part in zip(keys, parts, strict=True):
            ttl, size, held = next(replies), next(replies), next(replies)
            same = size == key.size and (ttl >= 0) == (key.ttl_ms >= 0) and _same(key, part, held)
            if not (same and await self._rest_is_same(key)):
                unlike.append(key)
        return unlike

    async def _first_part(self, key: _Key) -> _Part:
        async for part in self._parts(key):
            return part
        return _Part([], begins=True, start=0)

    async def _rest_is_same(self, key: _Key) -> bool:
        """Return whether the parts behind the first are the same."""
        async for part in self._parts(key):
            if not part.begins and not _same(key, part, await self._target.call(*_read_same(key, part))):
                return False
        return True


def _read_part(name: bytes, kind: str, cursor: str, start: int) -> tuple[Argument, ...]:
    """Return the command that reads a part of a key.

    Raises:
        StoreUnavailable: no broker makes a key of this type.
    """
    match kind:
        case "hash":
            return ("HSCAN", name, cursor, "COUNT", _PART)
        case "zset":
            return ("ZRANGE", name, start, start + _PART - 1, "WITHSCORES")
        case "list":
            return ("LRANGE", name, start, start + _PART - 1)
        case "string":
            return ("GET", name)
        case _:
            pass
    shown = name.decode("utf-8", "backslashreplace")
    raise StoreUnavailable(f"Redis: {shown} is a {kind}, which token-broker does not store", cure="remove that key")


def _items(key: _Key, reply: Any) -> list[bytes]:
    """Return the items of a reply as a write takes them: ZADD wants scores first."""
    if key.kind == "string":
        return [reply]
    if key.kind == "zset":
        return [item for at in range(0, len(reply), 2) for item in (reply[at + 1], reply[at])]
    return list(reply)


def _read_same(key: _Key, part: _Part) -> tuple[Argument, ...]:
    """Return the command that reads the same part of the target's key."""
    if key.kind == "hash":
        return ("HMGET", key.name, *part.items[::2]) if part.items else ("HLEN", key.name)
    return _read_part(key.name, key.kind, "0", part.start)


def _same(key: _Key, part: _Part, held: Any) -> bool:
    if key.kind == "hash":
        return bool(held == part.items[1::2]) if part.items else held == 0
    return held is not None and _items(key, held) == part.items


def _receive(name: bytes, kind: str, part: _Part, ttl_ms: int) -> tuple[Sequence[str], Sequence[Argument]]:
    ttl: Argument = ttl_ms if ttl_ms >= 0 else ""
    args = scripts.RECEIVE.args(part.items, kind=kind, begins="begins" if part.begins else "", ttl_ms=ttl)
    return scripts.RECEIVE.keys(key=name), args  # type: ignore[arg-type] # a name need not be UTF-8
