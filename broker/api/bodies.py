"""Token answers as bytes, each made once a second however often it is asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from multidict import CIMultiDict

from broker.wire import token_answer, usable_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model import Token

_MOST = 1024


class Answer(Protocol):
    """The members of an answer for *token* at *now* (epoch ms)."""

    def __call__(self, token: Token, now: int, *, dies: bool) -> dict[str, Any]:
        """As `broker.wire.token_answer`."""


class Made(NamedTuple):
    """An answer, and what it was made of."""

    token: Token
    made_at: int
    good_until: int
    body: bytes
    headers: CIMultiDict[str]


class Bodies:
    """The last answer of each token that is asked for all the time, at most `_MOST` of them."""

    def __init__(self, dies: Callable[[str], bool], answer: Answer = token_answer) -> None:
        """*dies* says of a provider whether its refresh kills the old token; *answer* gives the members."""
        self._dies = dies
        self._answer = answer
        self._made: dict[str, Made] = {}

    def of(self, token: Token, now: int) -> Made:
        """The answer for *token* at *now* (epoch ms): the one made before, as long as its seconds are the same."""
        made = self._made.get(token.grant_id)
        if made is not None and made.token is token and made.made_at <= now < made.good_until:
            return made
        dies = self._dies(token.provider)
        body = json.dumps(self._answer(token, now, dies=dies)).encode()
        # `expires_in` counts down next when what is left of its second has gone by.
        good_until = now + usable_ms(token, now, dies=dies) % 1000 + 1
        headers = CIMultiDict({"Content-Type": "application/json", **token_headers(token)})
        if len(self._made) >= _MOST:
            self._made.clear()
        made = self._made[token.grant_id] = Made(token, now, good_until, body, headers)
        return made


def token_headers(token: Token) -> dict[str, str]:
    """What every answer with or about *token* says of itself."""
    return {"Cache-Control": "no-store", "ETag": f'"{token.generation}"', "Vary": "Accept"}
