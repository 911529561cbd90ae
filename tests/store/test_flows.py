"""Pending logins: of several callers that take one, one gets it, and the others leave what is there by then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from broker.store import Store
from broker.store.flows import Flow


async def test_one_of_many_takes_a_flow(store: Store) -> None:
    """Of twenty callers that saw the same flow one replaces it, and its life goes on."""
    await store.flows.put("s", Flow("state", "g1", "p", "t"), 300)
    seen = [await store.flows.get("s") for _ in range(20)]
    flows = [flow for flow in seen if flow is not None]
    taken = [
        await flow
        for flow in asyncio.as_completed(
            [store.flows.advance("s", flow, replace(flow, owner=str(n))) for n, flow in enumerate(flows)]
        )
    ]
    assert sum(any(before is flow for flow in flows) for before in taken) == 1
    assert 0 < await store.primary.call("TTL", store.keys.flow("s")) <= 300


async def test_a_late_caller_leaves_what_is_held(store: Store) -> None:
    """An answer that is held since the flow was seen stays, also the fact that it was forgotten meanwhile."""
    await store.flows.put("s", Flow("state", "g1", "p", "t"))
    late = await store.flows.get("s")
    assert late is not None
    for held in ("answer", ""):
        now = await store.flows.get("s")
        assert now is not None
        await store.flows.update("s", replace(now, held=held, status="working"))
        before = await store.flows.advance("s", late, replace(late, status="failed"))
        assert before == replace(now, held=held, status="working")
        assert await store.flows.get("s") == before


async def test_a_flow_that_has_expired(store: Store) -> None:
    """Nothing is made of a flow that is gone."""
    await store.flows.put("s", Flow("state", "g1", "p", "t"))
    seen = await store.flows.get("s")
    assert seen is not None
    await store.primary.call("DEL", store.keys.flow("s"))
    assert await store.flows.advance("s", seen, seen) is None
    assert await store.flows.get("s") is None
