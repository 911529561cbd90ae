"""Retry on request: a grant whether it is parked or not, or a suspended provider and its parked grants.

Makes grants due and wakes the scheduler; the scheduler refreshes them. Knows neither callers nor HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from broker.errors import UnknownGrant

if TYPE_CHECKING:
    from broker.refresh.scheduler import Scheduler
    from broker.store import Store

_PAGE = 1000


class Retried(NamedTuple):
    """A grant that is due now, or leased because a refresh is under way already."""

    state: Literal["due", "leased"]
    generation: int
    provider: str


async def retry_grant(store: Store, scheduler: Scheduler, grant_id: str) -> Retried:
    """Make a grant due now, parked or not.

    Raises:
        UnknownGrant: there is no such grant.
        StoreUnavailable: Redis does not answer.
    """
    held = await store.registry.generation(grant_id)
    if held is None:
        raise UnknownGrant("no such grant")
    state = await store.schedule.retry(grant_id, held.provider)
    if state == "gone":
        raise UnknownGrant("no such grant")
    scheduler.wake(held.provider)
    return Retried(state, held.generation, held.provider)


async def retry_provider(store: Store, scheduler: Scheduler, provider: str) -> int:
    """Resume a suspended provider, and make its parked grants due now.

    A grant that needs a new login stays parked, unless the provider's breaker counted its refusal. Await this to its
    end: Redis returns the grants that the breaker counted only once.

    Returns:
        How many grants are due now.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    retried = 0
    for grant_id in await store.schedule.resume(provider):
        retried += await store.schedule.retry(grant_id, provider) == "due"
    cursor: str | None = None
    while True:
        page = await store.grants.page([provider], ["parked"], cursor, _PAGE)
        for _, grant in page.rows:
            if grant.reason != "reauthorization_required":
                retried += await store.schedule.retry(grant.grant_id, provider) == "due"
        cursor = page.next
        if cursor is None:
            break
    scheduler.wake(provider)
    return retried
