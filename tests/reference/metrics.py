"""The table of the metrics that a scrape shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from broker.model import State
from broker.process.metrics import (
    RISKS,
    GrantFigures,
    Metrics,
    ParkedFigures,
    ProviderFigures,
    Standing,
    render_grants,
)
from tests.reference.pages import code, table

_FREE = {"provider", "grant", "error", "version"}
"""Labels whose values are no fixed words."""


def metrics() -> str:
    """Return the table of all metrics."""
    rows = []
    for family in text_string_to_metric_families(_scraped().decode()):
        values: dict[str, dict[str, None]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, {})[value] = None
        labels = ", ".join(_label(family.name, label, found) for label, found in values.items() if label != "le")
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((code(name), family.type, labels, family.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def _label(family: str, label: str, values: Iterable[str]) -> str:
    free = label in _FREE or (family, label) == ("token_broker_grant_parked_timestamp_seconds", "reason")
    return code(label) + ("" if free else f" ({', '.join(values)})")


def _scraped() -> bytes:
    """Return a scrape in which every metric has a sample, and every label all of its fixed words."""
    counted = Metrics()
    counted.begin_provider("acme")
    for histogram in (counted.refresh_duration, counted.schedule_lag):
        histogram.labels("acme")
    for way in ("webhook", "command"):
        for outcome in ("sent", "failed"):
            counted.notices.labels(way, outcome)
    provider = ProviderFigures("acme", dict.fromkeys(get_args(State), 0), None, unserved=0)
    standing = Standing(providers=[provider], risks=frozenset(RISKS))
    grant = GrantFigures("a", "acme", 0, 0, 0, 0, 0)
    return counted.render(standing) + render_grants([grant], [ParkedFigures("b", "acme", 0, "rejected")])
