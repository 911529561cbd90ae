"""The settings of the audit stream."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from broker.settings.values import Section

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_SMALLEST, _LARGEST = 10**4, 10**12


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.fullmatch(r"([0-9]{1,12}) ?(KB|MB|GB)", value) if isinstance(value, str) else None
        size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not _SMALLEST <= size <= _LARGEST:
        raise ValueError('must be a size from "10KB" to "1000GB", such as "100MB"')
    return size


Size = Annotated[int, BeforeValidator(_size)]
"""Bytes; in a file with a unit."""


class Audit(Section):
    """Who did what to which grant: a stream of its own, one JSON line an event, never with a token."""

    file: Annotated[str, Field(min_length=1, max_length=4000)] | None = Field(
        default=None,
        examples=["audit.jsonl"],
        description='file to append to, or "stdout"; SIGHUP reopens the file; without it nothing is audited',
    )
    max_size: Size = Field(
        default=100 * 10**6, description='size at which the file is rotated to FILE.1, such as "100MB"'
    )
    keep: int = Field(default=10, ge=1, le=1000, description="rotated files to keep")
    on_failure: Literal["refuse", "serve"] = Field(
        default="serve",
        description="what to do with requests while it cannot be written; refuse: answer 503 until it can, and reserve "
        "2 MiB for its lines, so that no request is served that finds the disk full",
    )
