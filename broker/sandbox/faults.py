"""Own the queue of ordered faults: which kinds there are and which is next. `fault_effects` performs them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

if TYPE_CHECKING:
    from typing import Unpack

ENDPOINTS: Final = frozenset({"token", "revoke", "logout", "authorize", "discovery", "api", "account"})

KINDS: Final[Mapping[str, frozenset[str]]] = {
    "status": frozenset({"status", "headers", "body", "content_type"}),
    "refuse": frozenset(),
    "hang": frozenset({"after_rotation"}),
    "reset": frozenset({"after_rotation"}),
    "status_after": frozenset({"status", "headers", "body", "content_type"}),
    "truncate": frozenset(),
    "body": frozenset({"status", "headers", "body", "content_type"}),
    "members": frozenset({"members"}),
    "drip": frozenset({"interval"}),
    "invalid_client": frozenset({"after_rotation"}),
}
"""Each kind with the details it takes.

`status`: respond with a status (503) without processing. `refuse`: close the connection unread. `hang`: do not
respond until cleared or closed. `reset`: RST in the middle of a response. `status_after`: process, then respond
with a status (500). `truncate`: process, send half of the body and close. `body`: 200 with the given bytes,
without processing. `members`: process, then override members of the JSON response, None removes. `drip`: process,
then send a byte per `interval` seconds (1). `invalid_client`: respond with that error. With `after_rotation` the
request is processed first, so that a token is spent and its successor lost.
"""


_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "endpoint": str,
    "status": int,
    "headers": Mapping,
    "body": bytes,
    "content_type": str,
    "members": Mapping,
    "after_rotation": bool,
    "interval": (int, float),
}


class Details(TypedDict, total=False):
    """The details of a fault beyond its kind."""

    endpoint: str
    status: int
    headers: Mapping[str, str]
    body: bytes | str | Mapping[str, Any]
    content_type: str
    members: Mapping[str, Any]
    after_rotation: bool
    interval: float


@dataclass(slots=True, eq=False)
class Fault:
    """One order; `times` counts down to 0, None means until cleared; `taken` counts the requests that it met."""

    kind: str
    times: int | None = 1
    endpoint: str = "token"
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str | None = None
    members: Mapping[str, Any] = field(default_factory=dict)
    after_rotation: bool = False
    interval: float = 1.0
    taken: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the request with this fault is released."""


class Faults:
    """The faults that one authority has still to perform, in the order in which they were ordered."""

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.ordered: list[Fault] = []
        self._release = asyncio.Event()

    def order(self, kind: str, times: int | None = 1, **details: Unpack[Details]) -> Fault:
        """Order *kind* for the next *times* requests (None: until cleared) at `endpoint` ("token").

        A `body` given as a mapping is sent as JSON; one of the wrong type raises the same error as any bad order.

        Raises:
            ValueError: an unknown kind or endpoint, a detail that this kind does not take, or one of the
                wrong type.

        """
        if kind not in KINDS:
            message = f"unknown fault {kind!r}; known: {', '.join(KINDS)}"
            raise ValueError(message)
        surplus = set(details) - KINDS[kind] - {"endpoint"}
        if surplus:
            message = f"{kind} does not take {', '.join(sorted(surplus))}"
            raise ValueError(message)
        if times is not None and (not isinstance(times, int) or times < 1):
            message = "times is a positive whole number or None"
            raise ValueError(message)
        endpoint = details.get("endpoint", "token")
        if endpoint not in ENDPOINTS:
            message = f"unknown endpoint {endpoint!r}; known: {', '.join(sorted(ENDPOINTS))}"
            raise ValueError(message)
        fault = Fault(kind, times, **_normalize(details))
        self.ordered.append(fault)
        return fault

    def clear(self) -> None:
        """Forget every order and release the requests that hang or drip."""
        self.ordered.clear()
        self.release()

    def release(self) -> None:
        """Release the requests that hang or drip: their connections are closed without a response."""
        self._release.set()
        self._release = asyncio.Event()

    def take(self, endpoint: str) -> Fault | None:
        """Return a copy of the fault for a request that has just arrived, if there is one."""
        fault = next((fault for fault in self.ordered if fault.endpoint == endpoint), None)
        if fault is None:
            return None
        fault.taken += 1
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                self.ordered.remove(fault)
        # Handed over now: a release before the request waits for it must not be missed.
        return replace(fault, released=self._release)

    def owed(self) -> list[dict[str, Any]]:
        """Return the orders that remain, ready for JSON."""
        return [{"kind": each.kind, "endpoint": each.endpoint, "times": each.times} for each in self.ordered]


def _normalize(details: Details) -> dict[str, Any]:
    """Return *details* with the body as bytes, once their types are right."""
    normalized: dict[str, Any] = dict(details)
    body = normalized.get("body")
    if isinstance(body, Mapping):
        normalized["body"] = json.dumps(dict(body)).encode()
        normalized.setdefault("content_type", "application/json")
    elif isinstance(body, str):
        normalized["body"] = body.encode()
    wrong = [name for name, value in normalized.items() if not isinstance(value, _TYPES[name])]
    if wrong:
        message = f"{wrong[0]} has the wrong type"
        raise ValueError(message)
    return normalized
