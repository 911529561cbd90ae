"""The table of the alerts: when each fires, and what a person does; `runbook_url` leads to its row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.reference.pages import ROOT, code, table

RULES = ROOT / "deploy" / "prometheus" / "token-broker.rules.yml"


def alerts() -> str:
    """Return the table of all alerts; an alert of two severities has one row."""
    rules: dict[str, dict[str, dict[str, Any]]] = {}
    for rule in _rules():
        rules.setdefault(rule["alert"], {})[rule["labels"]["severity"]] = rule
    rows = []
    for name, by_severity in rules.items():
        first = next(iter(by_severity.values()))
        when, what = (_shown(first["annotations"][key]) for key in ("summary", "description"))
        rows.append(
            (f'<a id="{name.lower()}"></a>{code(name)}', ", ".join(by_severity), when, first.get("for", ""), what)
        )
    return table(("alert", "severity", "when", "for", "what to do"), rows)


def _rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        yield from group["rules"]


def _shown(text: str) -> str:
    """Return an annotation with the names of its labels in capitals, and `VALUE` for its value."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: match[1].upper(), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", "VALUE", text)
