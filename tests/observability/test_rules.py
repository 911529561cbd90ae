"""The alerts of deploy/prometheus: valid, each set off by what it should be and by nothing near it, and explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import RunningBroker
from tests.observability.queries import PROMETHEUS, UNITS, promtool, promtool_test, rules, samples, unknown_names
from tests.reference.alerts import alerts
from tests.reference.pages import ROOT, parts

NAMES = sorted({rule["alert"] for rule in rules()})
FAILED = re.compile(r'expr: "ALERTS\{alertname=\\"(\w+)\\"')


async def test_promtool_takes_them() -> None:
    """Rules and the scrape configuration are valid, and the units pass."""
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", UNITS.name]):
        code, words = await promtool(*arguments)
        assert code == 0, words


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (lambda rule: {**rule, "expr": f"({rule['expr']}) and vector(0) == 1"}, NAMES),
        (lambda rule: {**rule, "for": "0s"}, sorted({rule["alert"] for rule in rules() if "for" in rule})),
    ],
    ids=["never", "at once"],
)
async def test_the_units_would_find_it(change: Any, concerned: list[str], tmp_path: Path) -> None:
    """With alerts that never fire, or do not wait, the units of every alert fail: each is tested for both."""
    changed = {"groups": [{"name": "g", "rules": [change(rule) for rule in rules()]}]}
    (tmp_path / "token-broker.rules.yml").write_text(yaml.safe_dump(changed))
    (tmp_path / UNITS.name).write_text(UNITS.read_text("utf-8"))
    code, words = await promtool("test", "rules", UNITS.name, cwd=tmp_path)
    assert code == 1
    assert sorted(set(FAILED.findall(words))) == concerned


async def test_what_they_ask_for_exists(busy_broker: RunningBroker) -> None:
    """Every metric, label and value that an alert names is in the metrics of a real broker."""
    scraped = samples((await busy_broker.get("/metrics"))["text"])
    unknown = {name for rule in rules() for name in unknown_names(rule["expr"], scraped)}
    assert unknown == set()
    wrong = 'sum by (shape) (token_broker_grants{size="9", state="gone"}) + token_broker_x'
    assert set(unknown_names(wrong, scraped)) == {
        "by (shape)",
        "token_broker_grants{size}",
        'token_broker_grants{state="gone"}',
        "token_broker_x",
    }


async def test_words_and_links(tmp_path: Path) -> None:
    """What an alert says is complete once its labels are put in, and its link leads to its own row on the page."""
    tests, docs = [], "https://git.example.com/blob/main/"
    for case in yaml.safe_load(UNITS.read_text("utf-8"))["tests"]:
        fired = [at for at in case.pop("promql_expr_test") if at["exp_samples"]]
        asked = [
            {"eval_time": at["eval_time"], "alertname": match[1], "exp_alerts": []}
            for at in fired
            if (match := re.search(r'alertname="(\w+)"', at["expr"]))
        ]
        tests.append({**case, "external_labels": {"token_broker_docs": docs}, "alert_rule_test": asked})
    code, words = await promtool_test(tmp_path, tests, rules())  # it tells of each alert that nobody expected
    annotations = {}
    for name, got in re.findall(r"alertname: (\w+), time: \w+,\s+exp:\[.*?\],\s+got:\[(.*?)\n\s*\]", words, re.DOTALL):
        annotations[name] = re.findall(
            r'Annotations:\{(description=".*?", runbook_url=".*?", summary=".*?")\}', got, re.DOTALL
        )
    assert (code, sorted(annotations)) == (1, NAMES)
    for name, found in annotations.items():
        assert found, (name, words)
        for said in found:
            assert not re.search(r"error expanding|no value|\{\{|<nil>| {2}|\(\)", said), said
            assert f'runbook_url="{docs}deploy/prometheus/README.md#{name.lower()}"' in said
    assert "token-broker login dead --provider acme" in annotations["TokenBrokerReauthorizationRequired"][0]


def test_links_lead_to_the_page_of_alerts() -> None:
    """The page that an alert links to holds the table of alerts, and the anchor in it is the alert's name."""
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].rpartition("}}")[2].strip().partition("#")
        assert "alerts" in parts((ROOT / page).read_text("utf-8"))
        assert anchor == rule["alert"].lower()
        assert f'<a id="{anchor}"></a>' in alerts()


def test_severities_and_example() -> None:
    """Two severities and no more; the example scrapes under a name that the rules look for."""
    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning"}
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    assert re.fullmatch("token-broker.*", job["job_name"])
