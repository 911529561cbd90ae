"""The Sentinels' user and password: where they make no sense, the settings say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.errors import InvalidSettings
from broker.settings import Settings

Loaded = Callable[..., Settings]

HEAD = '[sealing]\nkeys_file = "k"\n[redis]\nurl = "{}"\n'


@pytest.mark.parametrize(
    ("url", "lines", "says"),
    [
        ("redis://h", 'sentinel_password_file = "s"', "needs Sentinels in redis.url"),
        ("redis+sentinel://h/main", 'sentinel_username = "broker"', "needs redis.sentinel_password_file"),
        ("redis+sentinel://h/main", 'sentinel_password_file = "s"\nsentinel_username = ""', "must not be empty"),
    ],
)
def test_refused(loaded: Loaded, url: str, lines: str, says: str) -> None:
    """Each says what is missing beside it."""
    with pytest.raises(InvalidSettings) as refused:
        loaded(HEAD.format(url) + lines + "\n")
    assert says in str(refused.value)


def test_taken(loaded: Loaded) -> None:
    """Both beside Sentinels."""
    text = HEAD.format("rediss+sentinel://h/main") + 'sentinel_username = "u"\nsentinel_password_file = "s"\n'
    redis = loaded(text).redis
    assert (redis.sentinel_username, redis.sentinel_password_file is not None) == ("u", True)
