"""Send commits in groups: while one trip to Redis is under way, the next commits gather; one WAITAOF proves them all.

Knows nothing of what a commit says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.errors import StoreUnavailable
from broker.store import scripts
from broker.store.redis.cures import find_cure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

MOST_TOGETHER = 256
"""Most commits in one trip: some 500 KiB, and a few ms of the server's time."""


class CommitGroup:
    """Sends commits, those that are ready at the same time in one trip."""

    def __init__(self, primary: Primary, *, replicas: int) -> None:
        self._primary = primary
        self._replicas = replicas
        self._waiting: list[tuple[Sequence[str], Sequence[Argument], asyncio.Future[tuple[Any, bool]]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def add(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Any, bool]:
        """Send one commit.

        Returns:
            What the script decided, and whether the write is known to be on disk.

        Raises:
            StoreUnavailable: Redis did not answer, or refused this commit.
        """
        done: asyncio.Future[tuple[Any, bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, args, done))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="commit group")
        reply, durable = await done
        return reply.decode(), durable

    async def _send(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            try:
                replies, durable = await self._primary.run_durably(
                    scripts.COMMIT, [(keys, args) for keys, args, _ in group], replicas=self._replicas
                )
            except Exception as error:  # noqa: BLE001 - whoever waits for the commit must hear it
                replies, durable = [error] * len(group), False
            for (_, _, done), reply in zip(group, replies, strict=True):
                if done.done():
                    continue
                if isinstance(reply, StoreUnavailable):
                    done.set_exception(reply)
                elif isinstance(reply, Exception):
                    done.set_exception(
                        StoreUnavailable(f"Redis refused a commit: {str(reply)[:120]}", cure=find_cure(reply))
                    )
                else:
                    done.set_result((reply, durable))
