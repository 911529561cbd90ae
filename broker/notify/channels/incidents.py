"""Notices as PagerDuty and Alertmanager read them: both keep a problem open until they hear of its end. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from broker.notify.channels.chat import cut, facts
from broker.notify.notice import MAX_IDS
from broker.notify.timing import event_of, provider_of
from broker.notify.words import title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.notify.notice import Notice

REPEAT_MS = {"pagerduty": 3_600_000, "alertmanager": 300_000}
"""How often an open problem is repeated. A restarted Alertmanager has forgotten it; in PagerDuty, where a repetition of
an open incident notifies nobody, it opens one that was closed too early."""
_OPEN_MS = 86_400_000
"""When Alertmanager takes a problem as ended of which no broker says any more."""
_SKEW_MS = 60_000
"""How long ago an end is said to be: an end in the future of Alertmanager's clock would not count."""
_AT_ONCE = 200
"""Alerts in one request."""
_TEST_MS = 60_000
"""How long the alert of a test lasts."""
_SEVERITIES = {
    "reauthorization_required": "critical",
    "provider_suspended": "critical",
    "refresh_failing": "error",
    "reauthorize_soon": "warning",
}
_ALERT_NAMES = {
    "reauthorization_required": "OAuthGrantReauthorizationRequired",
    "provider_suspended": "OAuthProviderSuspended",
    "refresh_failing": "OAuthGrantRefreshFailing",
    "reauthorize_soon": "OAuthGrantReauthorizeSoon",
}


class Source(NamedTuple):
    """The broker, as an incident names it."""

    page: str | None
    """URL of its status page."""

    @property
    def name(self) -> str:
        """Return its host and port."""
        return (urlsplit(self.page).netloc if self.page else "") or "token-broker"


def pagerduty(notice: Notice, routing_key: str, source: Source) -> Iterator[dict[str, Any]]:
    """Yield the events (Events API v2) of a notice: its incident, and the end of those that have no subject left."""
    if notice.event != "recovered":
        incident = f"token-broker/{notice.incident or notice.id}"
        yield _trigger(notice, incident, source) | {"routing_key": routing_key}
        if notice.event == "test":
            yield {"routing_key": routing_key, "event_action": "resolve", "dedup_key": incident}
    for ended in notice.ended:
        yield {"routing_key": routing_key, "event_action": "resolve", "dedup_key": f"token-broker/{ended}"}


def _trigger(notice: Notice, incident: str, source: Source) -> dict[str, Any]:
    what, do = notice.words()
    details: dict[str, Any] = {"what": what, "do": do, **{name.lower(): value for name, value in facts(notice)}}
    if notice.group:
        details |= {"grants": [each.grant_id for each in notice.group[:MAX_IDS]], "total": len(notice.group)}
    event: dict[str, Any] = {
        "event_action": "trigger",
        "dedup_key": incident,
        "payload": {
            "summary": cut(f"{title(notice)}. {what}", 1024),
            "source": source.name,
            "severity": _SEVERITIES.get(notice.event, "info"),
            "timestamp": _time(notice.at),
            "component": notice.provider or "token-broker",
            "group": "token-broker",
            "class": notice.event,
            "custom_details": details,
        },
        "client": "token-broker",
    }
    if notice.url:
        event |= {"client_url": notice.url, "links": [{"href": notice.url, "text": "Status page"}]}
    return event


def alertmanager(notice: Notice, source: Source, now: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the alerts (API v2, `postableAlerts`) of a notice: one for each grant, and the end of what each replaces.

    A list is short enough that its JSON does not hold up the event loop.

    Args:
        notice: of one grant or of several.
        source: the broker.
        now: epoch ms.
    """
    alerts = []
    for each in notice.members:
        if each.event == "recovered":
            alerts.append(_ended(each, each.incident, source, now))
            continue
        ends = now + (_TEST_MS if each.event == "test" else _OPEN_MS)
        alerts.append(
            _alert(each, each.event, each.provider, source) | {"startsAt": _time(each.at), "endsAt": _time(ends)}
        )
        if each.was and (event_of(each.was), provider_of(each.was)) != (each.event, each.provider):
            alerts.append(_ended(each, each.was, source, now))
    for start in range(0, len(alerts), _AT_ONCE):
        yield alerts[start : start + _AT_ONCE]


def _ended(notice: Notice, incident: str, source: Source, now: int) -> dict[str, Any]:
    at = _time(now - _SKEW_MS)
    return _alert(notice, event_of(incident), provider_of(incident), source) | {"startsAt": at, "endsAt": at}


def _alert(notice: Notice, event: str, provider: str | None, source: Source) -> dict[str, Any]:
    """Return an alert without its times. The labels say which it is, so they hold nothing that may change."""
    what, do = notice.words()
    labels = {
        "alertname": _ALERT_NAMES.get(event, "TokenBrokerTest"),
        "severity": _SEVERITIES.get(event, "info"),
        "service": "token-broker",
        "instance": source.name,
        "grant_id": notice.grant_id,
        "provider": provider,
    }
    annotations = {"summary": title(notice), "description": cut(what, 2000), "do": do}
    annotations |= {name.lower(): value for name, value in facts(notice) if name not in {"Grant", "Provider"}}
    alert: dict[str, Any] = {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": annotations | ({"url": notice.url} if notice.url else {}),
    }
    return alert | ({"generatorURL": notice.url} if notice.url else {})


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
