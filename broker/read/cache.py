"""Tokens in memory, only the newest generation of each grant, and the callers that wait for a newer one."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.errors import TokenUnavailable
from broker.read.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.model import Token
    from broker.read.changes import Listener, Permitted


class Cache:
    """The last token of each grant that was ever read here, at most *max_entries*, least recently read out first."""

    def __init__(
        self,
        max_entries: int,
        warm: Callable[[str], bool] = lambda _: False,
        *,
        max_waiting: int = 100_000,
        offset_of: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """Make an empty cache.

        Args:
            max_entries: tokens that are kept.
            warm: returns whether a grant is kept although nobody has read it yet.
            max_waiting: callers that may wait at once.
            offset_of: returns the offset of Redis's clock for a token that was just issued, by `issued_at`.
        """
        self._max_entries = max_entries
        self._max_waiting = max_waiting
        self._warm = warm
        self._offset_of = offset_of
        self._tokens: OrderedDict[str, Token] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self.waiting = 0
        """How many callers wait for a change."""
        self.closed = False
        self.changes = Changes()
        """Who wants to know that some grant changed, whatever is cached."""

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._tokens

    def get(self, grant_id: str) -> Token | None:
        """Return the cached token, valid or not."""
        token = self._tokens.get(grant_id)
        if token is not None:
            self._tokens.move_to_end(grant_id)
        return token

    def put(self, token: Token) -> bool:
        """Cache *token* unless a newer generation is cached, and wake the waiting callers.

        Returns:
            Whether it was cached.
        """
        held = self._tokens.get(token.grant_id)
        if held is not None and held.generation > token.generation:
            return False
        if token.clock_offset is None:
            token = replace(token, clock_offset=self._offset_of(token.issued_at))
        self._tokens[token.grant_id] = token
        self._tokens.move_to_end(token.grant_id)
        if len(self._tokens) > self._max_entries:
            self._tokens.popitem(last=False)
        if held is None or held.generation != token.generation:
            self.wake(token.grant_id)
        return True

    def succeed(self, token: Token, generation: int) -> bool:
        """Cache *token* as the successor of *generation*, unless another successor is cached already."""
        held = self._tokens.get(token.grant_id)
        return (held is None or held.generation <= generation) and self.put(token)

    def retract(self, token: Token) -> None:
        """Drop *token*: the store did not accept it."""
        held = self._tokens.get(token.grant_id)
        if held is not None and held.generation == token.generation:
            self.evict(token.grant_id)

    def evict(self, grant_id: str) -> None:
        """Drop this grant: it is gone, or belongs to another provider now."""
        self._tokens.pop(grant_id, None)
        self.wake(grant_id)

    def rewind(self, _: int, offset: int) -> None:
        """Have every token end when it would have ended, after Redis's clock was stepped to *offset* (`store/clock`).

        That is by as much earlier as its times were set at a higher offset; a lower one changes nothing.
        """
        for grant_id, token in self._tokens.items():
            back = (token.clock_offset or 0) - offset
            if back > 0:
                self._tokens[grant_id] = replace(
                    token,
                    issued_at=token.issued_at - back,
                    expires_at=token.expires_at - back,
                    refresh_at=token.refresh_at - back,
                    usable_until=token.usable_until - back,
                    clock_offset=offset,
                )

    def ids(self) -> list[str]:
        """Return the ids of all grants that are cached or waited for."""
        return list(self._tokens.keys() | self._waiting.keys())

    def tokens(self) -> list[Token]:
        """Return all cached tokens."""
        return list(self._tokens.values())

    def is_wanted(self, grant_id: str) -> bool:
        """Return whether a caller here has read this grant or waits for it, or it is to be kept warm."""
        return grant_id in self._tokens or grant_id in self._waiting or self._warm(grant_id)

    def wake(self, grant_id: str) -> None:
        """Have the callers that wait for this grant check again."""
        for waiter in self._waiting.pop(grant_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Have all callers that wait, and all streams, check again."""
        self.changes.note_all()
        for grant_id in list(self._waiting):
            self.wake(grant_id)

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.closed = True
        self.changes.close()
        self.wake_all()

    async def changed(self, grant_id: str, timeout: float) -> bool:
        """Wait until something about this grant changes here.

        Returns:
            False after *timeout* seconds, or if the cache is closed.

        Raises:
            TokenUnavailable: too many callers wait already.
        """
        if self.closed:
            return False
        self._take_place()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(grant_id, set()).add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1
            waiters = self._waiting.get(grant_id)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[grant_id]
        return True

    @contextmanager
    def listening(self, permitted: Permitted) -> Iterator[Listener]:
        """Listen to the changes of the grants that are *permitted*; who does counts as a caller that waits.

        Raises:
            TokenUnavailable: too many wait or listen already, or the broker stops.
        """
        self._take_place()
        try:
            with self.changes.listening(permitted) as listener:
                yield listener
        finally:
            self.waiting -= 1

    def _take_place(self) -> None:
        if self.waiting >= self._max_waiting:
            words = f"{self.waiting} callers wait here, the most that may: retry, or use another broker"
            raise TokenUnavailable(words, retry_after=5)
        self.waiting += 1


def any_of(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that says whether a grant id matches one of *patterns* (`acme-*`)."""
    if not patterns:
        return lambda _: False
    match = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).fullmatch
    return lambda grant_id: match(grant_id) is not None
