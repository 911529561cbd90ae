"""Owns the order book of faults: which kinds there are and whose turn it is. It performs none of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

if TYPE_CHECKING:
    from typing import Unpack

ENDPOINTS: Final = frozenset({"token", "revoke", "logout", "authorize", "discovery", "api"})

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

`status`: answers a status (503) without processing. `refuse`: closes the connection unread. `hang`: never
answers until cleared or closed. `reset`: RST in the middle of an answer. `status_after`: processes, then
answers a status (500). `truncate`: processes, sends half the body and closes. `body`: 200 with the bytes
given, without processing. `members`: processes, then overrides members of the JSON answer, None removes.
`drip`: processes, then sends a byte per `interval` seconds (1). `invalid_client`: answers just that.
With `after_rotation` the request is processed first, so that a token is spent and its successor lost.
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
    """What can be said about a fault beyond its kind."""

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
    """One order; `times` counts down to 0, None means until cleared; `taken` says how often it struck."""

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
    """Set once the request that this one struck is let go."""


class Faults:
    """The faults that one authority still owes, first ordered first served."""

    def __init__(self) -> None:
        """Begin with an empty order book."""
        self.ordered: list[Fault] = []
        self._release = asyncio.Event()

    def order(self, kind: str, times: int | None = 1, **details: Unpack[Details]) -> Fault:
        """Order *kind* for the next *times* requests (None: until cleared) at `endpoint` ("token").

        A `body` given as a mapping is sent as JSON.

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
        fault = Fault(kind, times, **_settled(details))
        self.ordered.append(fault)
        return fault

    def clear(self) -> None:
        """Forget every order and let go of the requests that hang or drip."""
        self.ordered.clear()
        self.release()

    def release(self) -> None:
        """Let go of the requests that hang or drip: their connections are closed unanswered."""
        self._release.set()
        self._release = asyncio.Event()

    def take(self, endpoint: str) -> Fault | None:
        """Return a copy of the fault that is due for a request that has just arrived, if there is one."""
        fault = next((fault for fault in self.ordered if fault.endpoint == endpoint), None)
        if fault is None:
            return None
        fault.taken += 1
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                self.ordered.remove(fault)
        # Handed over at once: a release that comes before the request waits for it must not be missed.
        return replace(fault, released=self._release)

    def owed(self) -> list[dict[str, Any]]:
        """Return what is still ordered, ready for JSON."""
        return [{"kind": each.kind, "endpoint": each.endpoint, "times": each.times} for each in self.ordered]


def _settled(details: Details) -> dict[str, Any]:
    settled: dict[str, Any] = dict(details)
    body = settled.get("body")
    if isinstance(body, Mapping):
        settled["body"] = json.dumps(dict(body)).encode()
        settled.setdefault("content_type", "application/json")
    elif isinstance(body, str):
        settled["body"] = body.encode()
    for name, value in settled.items():
        if not isinstance(value, _TYPES[name]):
            message = f"{name} has the wrong type"
            raise ValueError(message)  # noqa: TRY004 - one error for every bad order
    return settled
