"""Keys for what is sealed."""

from __future__ import annotations

import pytest

from broker.secret import Sealer, new_sealing_key, parse_sealing_keys


@pytest.fixture
def key() -> str:
    """One sealing key."""
    return new_sealing_key()


@pytest.fixture
def sealer(key: str) -> Sealer:
    """Return a sealer of that key."""
    return Sealer(parse_sealing_keys(key))
