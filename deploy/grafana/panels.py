"""Kinds of panels, as Grafana's JSON describes them."""

from __future__ import annotations

from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LINES: dict[str, Any] = {
    "color": {"mode": "palette-classic"},
    "custom": {"fillOpacity": 10, "showPoints": "never", "axisSoftMin": 0},
}


def timeseries(title: str, unit: str, says: str, *steps: tuple[float | None, str], **queries: str) -> dict[str, Any]:
    """Lines over time; each query by its legend, with labels in braces; *steps*: where lines stand for an alert."""
    defaults: dict[str, Any] = {"unit": unit, **LINES}
    if steps:
        defaults["custom"] = {**LINES["custom"], "thresholdsStyle": {"mode": "line"}}
        defaults["thresholds"] = thresholds(*steps)
    return {
        "type": "timeseries",
        "title": title,
        "description": says,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [target(expr, legend) for legend, expr in queries.items()],
    }


def stat(title: str, says: str, expr: str, *steps: tuple[float | None, str], unit: str = "none") -> dict[str, Any]:
    """One figure; *steps*: from which value on it has which colour."""
    return {
        "type": "stat",
        "title": title,
        "description": says,
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds(*steps)}, "overrides": []},
        "options": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [target(expr, instant=True)],
    }


def thresholds(*steps: tuple[float | None, str]) -> dict[str, Any]:
    """Return from which value on which colour is shown; the first step has no value: it is for all below."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


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
