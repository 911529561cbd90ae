"""Kinds of panels, as Grafana's JSON describes them."""

from __future__ import annotations

from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LINES = {"color": {"mode": "palette-classic"}, "custom": {"fillOpacity": 10, "showPoints": "never", "axisSoftMin": 0}}


def timeseries(title: str, unit: str, says: str, **queries: str) -> dict[str, Any]:
    """Lines over time; each query by its legend, where `_` stands for the labels in braces."""
    return {
        "type": "timeseries",
        "title": title,
        "description": says,
        "fieldConfig": {"defaults": {"unit": unit, **LINES}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [target(expr, legend) for legend, expr in queries.items()],
    }


def stat(title: str, says: str, expr: str, *steps: tuple[float | None, str], unit: str = "none") -> dict[str, Any]:
    """One figure; *steps*: from which value on it has which colour."""
    thresholds = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    return {
        "type": "stat",
        "title": title,
        "description": says,
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
        "options": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [target(expr, instant=True)],
    }


def table(title: str, says: str, expr: str, value: str, unit: str) -> dict[str, Any]:
    """Return a table with a row for each series; *value* heads the column of values."""
    organize = {"excludeByName": {"Time": True}, "renameByName": {"Value": value}}
    unit_of_value = {"matcher": {"id": "byName", "options": value}, "properties": [{"id": "unit", "value": unit}]}
    return {
        "type": "table",
        "title": title,
        "description": says,
        "fieldConfig": {"defaults": {}, "overrides": [unit_of_value]},
        "options": {"showHeader": True, "sortBy": [{"displayName": value, "desc": False}]},
        "transformations": [{"id": "organize", "options": organize}],
        "targets": [{**target(expr, instant=True), "format": "table"}],
    }


def target(expr: str, legend: str = "", *, instant: bool = False) -> dict[str, Any]:
    """One query."""
    return {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "instant": instant, "range": not instant}


def row(title: str, height: int, *panels: tuple[int, dict[str, Any]]) -> tuple[str, int, tuple[Any, ...]]:
    """Return a heading, and panels of one *height* under it, each with its width."""
    return title, height, panels
