"""The settings of Sentinels: the user and password that they ask for, which are none of the servers'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo


def _at_sentinels(value: Path | str | None, info: ValidationInfo) -> Path | str | None:
    url = info.data.get("url")
    if value is not None and url is not None and "+sentinel:" not in url:
        raise ValueError(
            "needs Sentinels in redis.url (redis+sentinel://HOST,HOST/SERVICE): correct that, or remove this"
        )
    return value


def _beside_a_password(user: str | None, info: ValidationInfo) -> str | None:
    if user is not None and info.data.get("sentinel_password_file", "") is None:
        raise ValueError("needs redis.sentinel_password_file, which holds the user's password: set that too")
    return user


SentinelFile = Annotated[
    Path | None,
    AfterValidator(_at_sentinels),
    Field(
        examples=["sentinel_password"],
        description="file with the password of the Sentinels, which never get that of the servers; without it they are "
        "asked without one",
    ),
]
SentinelUser = Annotated[
    Annotated[str, Field(min_length=1)] | None,
    AfterValidator(_at_sentinels),
    AfterValidator(_beside_a_password),
    Field(examples=["broker"], description="user at the Sentinels, if it is not `default`"),
]
