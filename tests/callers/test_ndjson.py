"""Lines of a body: the same however it is cut into pieces, and in groups of bounded size."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from broker.api.ndjson import MOST_LINES, LineReader
from broker.api.requests import BODY_LIMIT

LONG = BODY_LIMIT + 1
BODIES = {
    "lines": b'{"a": 1}\n{"b": 2}\n',
    "no line end at the end": b"a\nb",
    "blank ones": b"\n\r\n \na\n\n\t\nb\n\n",
    "many blank ones": b"\n" * 10_000 + b"a\n",
    "the longest": b"x" * BODY_LIMIT + b"\ny\n" + b"z" * BODY_LIMIT,
    "too long": b"a\n" + b"x" * LONG + b"\nb\n" + b"y" * 3 * LONG,
    "a blank one that is too long": b" " * LONG + b"\nb",
    "many": b"x\n" * 1000,
    "nothing": b"",
}


async def read(pieces: list[bytes]) -> list[list[tuple[int, bytes | None]]]:
    """Return the groups of a body that arrives in these pieces."""

    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [group async for group in LineReader(arriving()).groups()]


@pytest.mark.parametrize("kind", BODIES)
async def test_the_same_however_it_is_cut(kind: str) -> None:
    """Numbers and lines do not depend on the pieces; blank lines count, and one that is too long is None."""
    body = BODIES[kind]
    wanted = [
        (number, None if len(line) > BODY_LIMIT else line)
        for number, line in enumerate(body.split(b"\n"), 1)
        if line.strip() or len(line) > BODY_LIMIT
    ]
    for size in (1, 3, 1000, BODY_LIMIT - 1, 10 * LONG):
        if len(body) // size > 20_000:
            continue
        places = [*range(0, len(body), size), len(body)]
        pieces = [body[start:end] for start, end in pairwise(places)]
        assert [line for group in await read(pieces) for line in group] == wanted, size
    cuts = sorted(random.choices(range(len(body) + 1), k=9))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [line for group in await read(pieces) for line in group] == wanted, cuts


async def test_groups_are_bounded() -> None:
    """A group holds few lines and few bytes, and a run of blank lines is cut by empty groups."""
    assert max(len(group) for group in await read([b"x\n" * 1000])) == MOST_LINES
    longest = max(sum(len(line or b"") for _, line in group) for group in await read([(b"y" * 60_000 + b"\n") * 9]))
    assert longest <= 2 * BODY_LIMIT
    assert len(await read([b"\n" * 10_000])) >= 4
