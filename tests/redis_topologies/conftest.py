"""Topologies as fixtures, each of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.redis_topologies import servers
from tests.redis_topologies.servers import Cluster, Fleet, Sentinels


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers of the test's own, as it starts them."""
    with servers.fleet() as started:
        yield started


@pytest.fixture
async def behind_sentinels() -> AsyncIterator[Sentinels]:
    """Yield a primary, a replica and three Sentinels."""
    async with servers.sentinels() as started:
        yield started


@pytest.fixture
async def in_cluster() -> AsyncIterator[Cluster]:
    """Three masters and a replica of the one that owns our slot."""
    async with servers.cluster() as started:
        yield started
