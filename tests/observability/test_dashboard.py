"""The dashboard of deploy/grafana: current, importable, and every query of it answered by a real Prometheus."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningBroker
from tests.deploy.deployment import DEPLOY
from tests.observability.queries import Prometheus, rules, samples, unknown_names
from tests.reference.metrics import metrics
from tests.waiting import until

GRAFANA = DEPLOY / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$provider": ".*"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """Return the JSON as it is deployed."""
    read: dict[str, Any] = json.loads((GRAFANA / "token-broker.json").read_text("utf-8"))
    return read


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title of the panel and expression of every query."""
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def test_it_is_current(dashboard: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON is what its source writes."""
    monkeypatch.syspath_prepend(GRAFANA)
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    assert (GRAFANA / "token-broker.json").read_text("utf-8") == source.text(), "python deploy/grafana/dashboard.py"


def test_it_can_be_imported(dashboard: dict[str, Any]) -> None:
    """As Grafana 10 wants it: no id of another instance, a data source that is chosen, places that do not overlap."""
    assert "id" not in dashboard
    assert dashboard["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == SOURCE
        assert panel["description"], panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABC"[: len(panel["targets"])])
        assert all(target["datasource"] == SOURCE for target in panel["targets"])
    used = set("".join(expr for _, expr in queries(dashboard)).replace("$__rate_interval", "").split("$")[1:])
    assert {word.split('"')[0] for word in used} == {"job", "provider"} <= set(variables)


def test_every_panel_can_be_read(dashboard: dict[str, Any]) -> None:
    """A unit for each value, a legend for each line, a colour for each figure; a line where an alert has a limit."""
    limits: dict[str, list[float]] = {}
    for panel in (each for each in dashboard["panels"] if each["type"] != "row"):
        defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
        of_value = [part["value"] for each in overrides for part in each["properties"] if part["id"] == "unit"]
        assert defaults.get("unit", *of_value) in {"none", "s", "reqps", "dateTimeAsIso"}, panel["title"]
        steps = defaults.get("thresholds", {"steps": []})["steps"]
        assert [step["value"] for step in steps[:1]] == ([None] if steps else []), "the first step is for all below"
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
            assert bool(steps) == ("thresholdsStyle" in defaults["custom"]), panel["title"]
            limits |= {panel["title"]: [step["value"] for step in steps[1:]]} if steps else {}
        assert steps or panel["type"] != "stat", panel["title"]
    assert limits == {
        "Grants without a valid token, by provider": [1],
        "How late refreshes begin": [60],
        "Durability at risk": [1],
        "Clock ahead of Redis": [-5, 5],
    }
    alerts = " ".join(rule["expr"] for rule in rules())
    for limit in (
        r"grants_unserved\) > 0",
        r"schedule_lag_seconds_bucket\[10m\]\)\)\) > 60",
        "durability_at_risk[^=]+=[^=]+== 1",
        r"offset_seconds\) > 5",
    ):
        assert re.search(limit, alerts), "an alert has another limit now: the dashboard must follow"


def legend_of(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Return the legend of one series, as Grafana writes it: a label that is missing is an error here."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels[match[1]], target["legendFormat"])


async def test_what_it_asks_for_exists(busy_broker: RunningBroker, dashboard: dict[str, Any]) -> None:
    """Each metric, label and value that a query or variable names is in a real scrape, and each metric in the table."""
    scraped = samples((await busy_broker.get("/metrics"))["text"])
    asked = [expr for _, expr in queries(dashboard)]
    asked += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert {name for expr in asked for name in unknown_names(expr, scraped)} == set()
    families = {re.sub("_(bucket|sum|count)$", "", sample.name) for sample in scraped}
    assert families <= set(re.findall(r"^\| `(\w+)`", metrics(), re.MULTILINE))


async def test_prometheus_answers_every_query(
    busy_broker: RunningBroker, dashboard: dict[str, Any], tmp_path: Path, ended: list[subprocess.Popen[Any]]
) -> None:
    """A real Prometheus scrapes a real broker by the example, takes the rules, and has something in every panel."""

    def filled_in(expr: str) -> str:
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        return expr

    async with Prometheus(tmp_path, busy_broker.url, ended) as prometheus:
        await until(lambda: prometheus.query("token_broker_token_requests_total > 0"), timeout=30, every=0.2)
        # What grew before the first scrape has no rate: so something happens now.
        await busy_broker.ask("POST", "/v1/grants/well/retry")
        await busy_broker.token("well")
        await until(lambda: prometheus.query("sum(rate(token_broker_refreshes_total[1m])) > 0"), timeout=20, every=0.2)
        await until(lambda: prometheus.query("sum(rate(token_broker_token_requests_total[1m])) > 0"), every=0.2)
        answered = {expr: await prometheus.query(filled_in(expr)) for _, expr in queries(dashboard)}
        assert {expr for expr, found in answered.items() if not found} == set()
        for panel in (each for each in dashboard["panels"] if each["type"] == "timeseries"):
            legends = [legend_of(t, series["metric"]) for t in panel["targets"] for series in answered[t["expr"]]]
            assert len(legends) == len(set(legends)), (panel["title"], legends)
        assert await prometheus.firing() == {"TokenBrokerReauthorizationRequired", "TokenBrokerReauthorizeSoon"}
