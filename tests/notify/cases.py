"""Every kind of notice there is: of one grant, of many, of a provider, with long and with strange texts."""

from __future__ import annotations

from functools import cache

from broker.model.account import Account, Ownership
from broker.notify.notice import Notice
from broker.notify.policy import Condition, Problem

PAGE = "https://broker.test/b"
SINCE, END = 1_796_050_000_000, 1_796_060_000_000
JANE = Ownership(Account("248", "jane@example.com"), "Jane <Doe> & Söhne", "front_door *1*")
CONDITIONS: dict[str, Condition] = {
    "reauthorization_required": Problem(
        3, "reauthorization_required", "reauthorization_required", "invalid_grant: <b>gone</b>", END
    ),
    "reauthorize_soon": Problem(1, "reauthorize_soon", "reauthorize_by", ends_at=END),
    "refresh_failing": Problem(1, "refresh_failing", "busy", "HTTP 503"),
    "recovered": "healthy",
}
REJECTED = Problem(2, "refresh_failing", "invalid_scope", "x" * 3000)


def notice_of(event: str, condition: Condition, subject: str, page: str | None = PAGE) -> Notice:
    """Return the notice of one subject."""
    incident = f"acme/{'refresh_failing' if event == 'recovered' else event}/{SINCE}"
    made = Notice.for_subject(
        "msg_1", event, SINCE, subject, provider="acme", condition=condition, ownership=JANE, page=page
    )
    return Notice(**{name: getattr(made, name) for name in made.__slots__} | {"incident": incident})


def group_of(event: str, condition: Condition, count: int) -> Notice:
    """Return the notice of several grants, with ids as long as they may be."""
    each = [notice_of(event, condition, f"grant/{'x' * 124}{number:04}") for number in range(count)]
    return Notice.for_group("msg_2", each, PAGE, (each[0].incident,) if event == "recovered" else ())


@cache
def every_notice() -> tuple[Notice, ...]:
    """Return them all."""
    made = [Notice("msg_0", "test", SINCE, url=f"{PAGE}/")]
    for event, condition in [*CONDITIONS.items(), ("refresh_failing", REJECTED)]:
        made += [
            notice_of(event, condition, "grant/g-1"),
            notice_of(event, condition, "grant/g-1", page=None),
            group_of(event, condition, 2),
            group_of(event, condition, 500),
        ]
    suspended = Problem(1, "provider_suspended", "invalid_client", "HTTP 401")
    made.append(notice_of("provider_suspended", suspended, "provider/acme"))
    made.append(notice_of("recovered", "healthy", "provider/acme"))
    return tuple(made)
