"""A sandbox and a client for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.sandbox import Sandbox

from .relying import RelyingParty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Yield a sandbox that listens."""
    async with Sandbox(access_lifetime=30) as sandbox:
        yield sandbox


@pytest.fixture
async def client() -> AsyncIterator[RelyingParty]:
    """Yield an OAuth client."""
    async with RelyingParty() as client:
        yield client
