"""PromQL as the tests read it, and promtool and Prometheus as they run them."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.deployment import DEPLOY, skip_or_fail
from tests.ports import free_port

PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "token-broker.rules.yml"
UNITS = PROMETHEUS / "token-broker.test.yml"
_OF_PROMETHEUS = {"job", "instance"}
"""Labels that a scrape adds."""
_SELECTOR = re.compile(r"(token_broker_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def series(self) -> str:
        """As promtool's tests write it."""
        inside = ", ".join(f'{name}="{value}"' for name, value in sorted(self.labels.items()))
        return f"{self.name}{{{inside}}}"


def samples(text: str) -> list[Sample]:
    """Every sample of a scrape."""
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def rules() -> list[dict[str, Any]]:
    """Return the alerts as they are deployed."""
    read = yaml.safe_load(RULES.read_text("utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def unknown_names(expr: str, scraped: list[Sample]) -> Iterator[str]:
    """Yield what a query asks for and no scrape has: metrics, their labels, and label values matched exactly."""
    asked = set(_OF_PROMETHEUS)
    for name, inside in _SELECTOR.findall(expr):
        there = [sample for sample in scraped if sample.name == name]
        if not there:
            yield name
        labels = {label for sample in there for label in sample.labels}
        asked |= labels
        for label, operator, value in _MATCHER.findall(inside):
            if label not in labels | _OF_PROMETHEUS:
                yield f"{name}{{{label}}}"
            if label in labels and operator in {"=", "=~"} and not value.startswith("$"):
                known = {sample.labels[label] for sample in there}
                yield from (f'{name}{{{label}="{one}"}}' for one in value.split("|") if one not in known)
    for inside in _GROUPING.findall(expr):
        yield from (f"by ({label})" for label in re.split(r"[\s,]+", inside) if label and label not in asked)


def program(name: str) -> str:
    """Its path; skips where it is missing, fails in CI."""
    found = shutil.which(name)
    if found is None:
        skip_or_fail(f"{name} is not installed")
    assert found is not None
    return found


async def promtool(*arguments: str | Path, cwd: Path = PROMETHEUS) -> tuple[int, str]:
    """Exit code and words of promtool."""
    tool = program("promtool")
    done = await asyncio.to_thread(
        subprocess.run, [tool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=50, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def promtool_test(directory: Path, tests: list[dict[str, Any]], groups: list[dict[str, Any]]) -> tuple[int, str]:
    """Run unit *tests* on rules of one group, both written into *directory*."""
    (directory / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": groups}]}))
    units = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "units.yml").write_text(yaml.safe_dump(units))
    return await promtool("test", "rules", "units.yml", cwd=directory)


def fed(scraped: list[Sample], minutes: int) -> list[dict[str, str]]:
    """Return a scrape as promtool's input, as if it stayed like that for *minutes*."""
    target = {"job": "token-broker", "instance": "broker:8080"}
    found = [Sample("up", {}, 1.0), *scraped]
    return [
        {"series": Sample(s.name, {**s.labels, **target}, s.value).series, "values": f"{s.value!r}x{minutes}"}
        for s in found
    ]


async def fires(directory: Path, scraped: list[Sample], *names: str, minutes: int = 30) -> None:
    """Have promtool judge a scrape by the deployed rules: these alerts fire if it stays like that, and no others."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
    firing = 'group by (alertname) (ALERTS{alertstate="firing"})'
    exactly = {"expr": firing, "eval_time": f"{minutes}m", "exp_samples": expected}
    case = {"interval": "1m", "input_series": fed(scraped, minutes), "promql_expr_test": [exactly]}
    code, words = await promtool_test(directory, [case], rules())
    assert code == 0, words


class Prometheus:
    """A real one that scrapes a broker as deploy/prometheus says, but each second, and with the rules there."""

    def __init__(
        self, directory: Path, broker: str, ended: list[subprocess.Popen[Any]], *, rules_file: Path = RULES
    ) -> None:
        """Start it; *ended* takes its process, to be ended after the test. It takes the rules of *rules_file*."""
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(rules_file)]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [broker.removeprefix("http://")]
        del config["alerting"]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        command = [
            program("prometheus"),
            f"--config.file={file}",
            f"--web.listen-address={address}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--log.level=error",
        ]
        ended.append(subprocess.Popen(command, cwd=directory))
        self._session = aiohttp.ClientSession(f"http://{address}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def query(self, expr: str) -> list[Any]:
        """Return the instant vector of a query; empty while it does not listen yet."""
        return (await self._ask("/api/v1/query", query=expr) or {"result": []})["result"]  # type: ignore[no-any-return]

    async def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        answer = await self._ask("/api/v1/alerts")
        return {alert["labels"]["alertname"] for alert in answer["alerts"] if alert["state"] == "firing"}

    async def _ask(self, path: str, **params: str) -> Any:
        try:
            async with self._session.get(path, params=params) as answer:
                body = await answer.json()
        except aiohttp.ClientError:
            return None
        assert body["status"] == "success", (params, body)
        return body["data"]
