"""Writes token-broker.json, the dashboard for Grafana 10 or newer.

    python deploy/grafana/dashboard.py

The one source of it: change a panel here, run it, commit both. Panels flow from left to right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import SOURCE, row, stat, table, timeseries

FILE = Path(__file__).with_name("token-broker.json")
J = 'job=~"$job"'
P = f'{J}, provider=~"$provider"'
GRANT = "job, grant, provider"
COLUMNS = 24


GOOD, BAD, SOON = "green", "red", "orange"
ROWS = [
    row(
        "At a glance",
        4,
        (3, stat("Brokers that answer", "Targets of the job.", f"sum(up{{{J}}})", (None, BAD), (1, GOOD))),
        (
            3,
            stat(
                "Brokers that reach Redis",
                "Without it memory serves and nothing is refreshed.",
                f"sum(token_broker_store_up{{{J}}})",
                (None, BAD),
                (1, GOOD),
            ),
        ),
        (
            3,
            stat(
                "Grants",
                "In all states.",
                f"sum(max by (job, provider, state) (token_broker_grants{{{P}}}))",
                (None, "blue"),
            ),
        ),
        (
            4,
            stat(
                "Grants without a valid token",
                "Callers get none. GET /v1/grants?order=urgent lists them first.",
                f"sum(max by (job, provider) (token_broker_grants_unserved{{{P}}}))",
                (None, GOOD),
                (1, BAD),
            ),
        ),
        (
            4,
            stat(
                "Grants that wait for a person",
                "Parked: dead or refused. token-broker explain GRANT.",
                f'sum(max by (job, provider) (token_broker_grants{{{P}, state="parked"}}))',
                (None, GOOD),
                (1, BAD),
            ),
        ),
        (
            3,
            stat(
                "Providers suspended",
                "They refuse the client registration, or grant after grant.",
                f"sum(max by (job, provider) (token_broker_provider_suspended{{{P}}}))",
                (None, GOOD),
                (1, BAD),
            ),
        ),
        (
            4,
            stat(
                "Soonest end of a living grant's token",
                "Of the grants shown one by one.",
                f"min(max by ({GRANT}) (token_broker_grant_access_token_expiry_timestamp_seconds{{{P}}}) unless "
                f"max by ({GRANT}) (token_broker_grant_parked_timestamp_seconds{{{P}}})) - time()",
                (None, BAD),
                (60, SOON),
                (300, GOOD),
                unit="s",
            ),
        ),
    ),
    row(
        "Grants",
        8,
        (
            12,
            table(
                "They wait for a person",
                "token-broker login GRANT --provider P where reauthorization is required, "
                "else token-broker explain GRANT.",
                f"max by ({GRANT}, reason) (token_broker_grant_parked_timestamp_seconds{{{P}}}) * 1000",
                "since",
                "dateTimeAsIso",
            ),
        ),
        (
            12,
            table(
                "Tokens that end first",
                "Refreshed before, where all is well.",
                f"bottomk(50, max by ({GRANT}) (token_broker_grant_access_token_expiry_timestamp_seconds{{{P}}})"
                " - time())",
                "left",
                "s",
            ),
        ),
        (
            24,
            timeseries(
                "Grants without a valid token, by provider",
                "none",
                "Beyond 0 for two minutes there is an alert.",
                (None, GOOD),
                (1, BAD),
                **{"{{provider}}": f"max by (job, provider) (token_broker_grants_unserved{{{P}}})"},
            ),
        ),
        (
            12,
            timeseries(
                "Grants by state",
                "none",
                "parked: until a person acts. leased: being refreshed.",
                **{"{{provider}} {{state}}": f"max by (job, provider, state) (token_broker_grants{{{P}}})"},
            ),
        ),
        (
            12,
            table(
                "A person must log in before",
                "Where the provider ends a grant by itself.",
                f"max by ({GRANT}) (token_broker_grant_reauthorize_by_timestamp_seconds{{{P}}}) * 1000",
                "before",
                "dateTimeAsIso",
            ),
        ),
    ),
    row(
        "Refreshing",
        8,
        (
            12,
            timeseries(
                "Token requests by outcome",
                "reqps",
                "refreshed: success. deploy/prometheus/README.md explains the others.",
                **{
                    "{{provider}} {{outcome}}": "sum by (provider, outcome) "
                    f"(rate(token_broker_refreshes_total{{{P}}}[$__rate_interval])) > 0"
                },
            ),
        ),
        (
            12,
            timeseries(
                "Duration of token requests",
                "s",
                "Half of them, and 99 of 100, take no longer.",
                **{
                    f"{{{{provider}}}} {words}": f"histogram_quantile({q}, sum by (provider, le) "
                    f"(rate(token_broker_refresh_duration_seconds_bucket{{{P}}}[$__rate_interval])))"
                    for q, words in ((0.5, "half"), (0.99, "99 %"))
                },
            ),
        ),
        (
            8,
            timeseries(
                "How late refreshes begin",
                "s",
                "After the grant was due; 90 of 100 begin sooner. Beyond 60 s for long there is an alert.",
                (None, GOOD),
                (60, BAD),
                **{
                    "{{provider}}": "histogram_quantile(0.9, sum by (provider, le) "
                    f"(rate(token_broker_schedule_lag_seconds_bucket{{{P}}}[$__rate_interval])))"
                },
            ),
        ),
        (
            8,
            timeseries(
                "Most overdue grant",
                "s",
                "How long the grant that is due first has waited.",
                **{
                    "{{provider}}": "clamp_min(time() - min by (provider) "
                    f"(token_broker_grant_next_refresh_timestamp_seconds{{{P}}}), 0)"
                },
            ),
        ),
        (
            8,
            timeseries(
                "Since any grant's token",
                "s",
                "Since the provider last gave any of its grants a token.",
                **{
                    "{{provider}}": "time() - max by (provider) "
                    f"(token_broker_grant_last_success_timestamp_seconds{{{P}}})"
                },
            ),
        ),
    ),
    row(
        "Callers",
        8,
        (
            12,
            timeseries(
                "Reads by how they were answered",
                "reqps",
                "cached is from memory; unavailable and dead got no token; too_fresh is a 401 about something else.",
                **{
                    "{{outcome}}": "sum by (outcome) "
                    f"(rate(token_broker_token_requests_total{{{J}}}[$__rate_interval])) > 0"
                },
            ),
        ),
        (
            6,
            timeseries(
                "Connections, and callers that wait",
                "none",
                "They wait for a token, or for news of one.",
                **{
                    "open {{instance}}": f"token_broker_connections{{{J}}}",
                    "waiting {{instance}}": f"token_broker_subscribers{{{J}}}",
                    "refused {{instance}}": "increase(token_broker_connections_closed_total"
                    f'{{{J}, reason="refused"}}[5m])',
                },
            ),
        ),
        (
            6,
            timeseries(
                "Tokens in memory",
                "none",
                "What a broker can serve without Redis.",
                **{"{{instance}}": f"token_broker_cached_tokens{{{J}}}"},
            ),
        ),
    ),
    row(
        "Brokers",
        8,
        (
            6,
            timeseries(
                "Answers not confirmed by Redis",
                "none",
                "In the journal alone; back to 0 within moments.",
                **{"{{instance}}": f"token_broker_journal_entries{{{J}}}"},
            ),
        ),
        (
            6,
            timeseries(
                "Durability at risk",
                "none",
                "1 while an answer could be lost.",
                (None, GOOD),
                (1, BAD),
                **{"{{instance}} {{reason}}": f"token_broker_durability_at_risk{{{J}}}"},
            ),
        ),
        (
            6,
            timeseries(
                "Clock ahead of Redis",
                "s",
                "Beyond 5 s: synchronise the hosts.",
                (None, BAD),
                (-5, GOOD),
                (5, BAD),
                **{"{{instance}}": f"token_broker_clock_offset_seconds{{{J}}}"},
            ),
        ),
        (
            6,
            timeseries(
                "Notices and lost subscriptions",
                "none",
                "In five minutes.",
                **{
                    "{{way}} {{outcome}}": f"sum by (way, outcome) (increase(token_broker_notices_total{{{J}}}[5m]))",
                    "subscription lost {{instance}}": f"increase(token_broker_subscription_gaps_total{{{J}}}[5m])",
                },
            ),
        ),
        (
            24,
            table(
                "Versions",
                "One while all are alike.",
                f"count by (job, version) (token_broker_build_info{{{J}}})",
                "brokers",
                "none",
            ),
        ),
    ),
]


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Return a choice of label values, all of them at first."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def panels() -> list[dict[str, Any]]:
    """All of them, with their places."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, height, inside in ROWS:
        placed.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, COLUMNS, 1)}
        )
        x, y = 0, y + 1
        for width, panel in inside:
            if x + width > COLUMNS:
                x, y = 0, y + height
            for letter, query in zip("ABC", panel["targets"], strict=False):
                query["refId"] = letter
            placed.append({**panel, "datasource": SOURCE, "gridPos": _place(x, y, width, height)})
            x += width
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def dashboard() -> dict[str, Any]:
    """Return the dashboard, in the model of Grafana 10.0."""
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}}
    return {
        "uid": "token-broker",
        "title": "token-broker",
        "tags": ["token-broker", "oauth2"],
        "schemaVersion": 38,
        "description": "OAuth 2.0 grants: what lives, what fails, and what a person must do.",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                source,
                variable("job", "Job", "label_values(token_broker_build_info, job)"),
                variable("provider", "Provider", 'label_values(token_broker_grants{job=~"$job"}, provider)'),
            ]
        },
        "panels": panels(),
    }


def text() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
