"""`/openapi.json` is valid, tells every route, and is what the broker really does."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
from aiohttp import web
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from broker.api.routes import openapi
from broker.api.routes.operations import OPERATIONS
from broker.sandbox import Sandbox, walk_to_redirect
from tests.conftest import RunningBroker
from tests.steps import log_in

REACHED = "acme-cameras"
"""The grant that the document has as its example."""

CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]  # what the fuzzer imports is soon parked: 503 is the response to that
"""


@pytest.fixture
async def document(broker: RunningBroker) -> dict[str, Any]:
    """Return the document as the broker serves it, to whoever asks."""
    async with broker.session.get(broker.url + "/openapi.json") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        return dict(await answer.json())


async def test_the_document(document: dict[str, Any], broker: RunningBroker) -> None:
    """It is OpenAPI 3.1, each schema in it JSON Schema, nothing is told that is not used, and it says its version."""
    OPENAPI_31_VALIDATOR.validate(document)
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert schema["description"], name
    text = json.dumps(document)
    named = {f"#/components/{kind}/{name}" for kind in document["components"] for name in document["components"][kind]}
    used = set(re.findall(r'"\$ref": "([^"]+)"', text)) | {
        f"#/components/securitySchemes/{name}" for name in re.findall(r'{"(\w+)": \[\]}', text)
    }
    lines = {f"#/components/schemas/{shape}" for shape in ("ImportLine", "ImportOutcome")}  # NDJSON: described in words
    assert used == named - lines
    names = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(names) == len(set(names)) > 20
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
    status, _, headers = await broker.ask("GET", "/openapi.json")
    again, _, _ = await broker.ask("GET", "/openapi.json", headers={"If-None-Match": headers["ETag"]})
    assert (status, again) == (200, 304)


async def test_every_route_is_described(document: dict[str, Any]) -> None:
    """What is served and what is told are the same; a route that nobody tells of is an error, not a gap."""
    known = {route for group in OPERATIONS.values() for route in group}
    assert {path for _, path in known} == set(document["paths"])
    router = web.UrlDispatcher()

    async def forgotten(_: web.Request) -> web.Response:
        raise NotImplementedError

    router.add_get("/v1/forgotten", forgotten)
    with pytest.raises(KeyError, match="/v1/forgotten"):
        openapi.make_document(openapi.list_routes(router))


def closed(schema: Any) -> Any:
    """Return a schema that takes no member beside those it names, where it does not say that there may be more."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


class DescribedBroker:
    """Holds answers to the document."""

    def __init__(self, document: dict[str, Any], broker: RunningBroker) -> None:
        self.document = closed(document)
        self.broker = broker
        self.seen: set[tuple[str, str, int]] = set()

    async def ask(self, method: str, path: str, status: int, route: str = "", **options: Any) -> Any:
        """Ask as admin: the answer has *status* and is what is told of it. Gives its JSON."""
        got, body, headers = await self.broker.ask(method, path, **options)
        assert got == status, (method, path, body)
        route = route or urlsplit(path).path.replace(REACHED, "{id}")
        answer = self.document["paths"][route][method.lower()]["responses"][str(status)]
        if "$ref" in answer:
            answer = self.document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        self.seen.add((method.lower(), route, status))
        kind = headers.get("Content-Type", "").partition(";")[0]
        if "content" not in answer:
            assert headers.get("Content-Length", "0") == "0"
            return None
        if kind != "application/json":
            assert kind in answer["content"] or "*/*" in answer["content"], (path, kind)
            return body.get("text")
        schema = answer["content"][kind]["schema"] | {"components": self.document["components"]}
        faults = [fault.message for fault in jsonschema_rs.Draft202012Validator(schema).iter_errors(body)]
        assert not faults, (method, path, faults)
        return body


async def test_answers_are_as_described(document: dict[str, Any], broker: RunningBroker, sandbox: Sandbox) -> None:
    """Every answer that succeeds, and errors of each kind, hold to what is told of them, to the last member."""
    held, at, key = (
        DescribedBroker(document, broker),
        f"/v1/grants/{REACHED}",
        {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-origin"},
    )
    new = {"provider": "acme", "refresh_token": sandbox.rotating.issue(scope="a b").refresh_token}
    await held.ask("PUT", at, 201, json=new)
    await held.ask("PUT", at, 200, json=new)
    token = await held.ask("GET", f"{at}/token", 200)
    assert "scope" in token
    generation = {"If-None-Match": f'"{token["generation"]}"'}
    await held.ask("GET", f"{at}/token", 304, headers=generation)
    await held.ask("GET", f"{at}/token", 200, headers={"Accept": "text/plain"})
    await held.ask("GET", f"{at}/token?min_ttl=x", 400)
    await held.ask("GET", f"{at}/token", 401, headers={"X-Broker-Key": "nobody's"})
    await held.ask("POST", f"{at}/refresh", 428)
    await held.ask("POST", f"{at}/refresh", 200, headers={"If-Match": '"1"'})
    await held.ask("POST", f"{at}/refresh", 204, headers={"If-Match": '"1"', "Prefer": "return=minimal"})
    await held.ask("POST", f"{at}/refresh", 429, headers={"If-Match": generation["If-None-Match"]})
    await held.ask("PATCH", f"{at}/authorization", 200)
    await held.ask("GET", f"{at}/authorization/a/b", 200, "/v1/grants/{id}/authorization/{suffix}")
    form = {"grant_type": "client_credentials", "scope": f"grant:{REACHED}"}
    standard = await held.ask("POST", "/oauth2/token", 200, data=form)
    assert standard["provider_scope"] == token["scope"]
    await held.ask("POST", "/oauth2/token", 400, data=form | {"scope": "a"})
    await held.ask("GET", "/v1/grants?limit=1", 200)
    described = await held.ask("GET", at, 200)
    assert described["last"] is not None
    assert (await held.ask("GET", f"{at}/attempts", 200))["attempts"]
    assert (await held.ask("GET", f"{at}/explanation?utc_offset=60", 200))["attempts"]
    await held.ask("POST", f"{at}/retry", 202)
    assert (await held.ask("GET", "/v1/verdict?utc_offset=-90", 200))["grants"]
    await held.ask("GET", "/v1/verdict?utc_offset=east", 400)
    assert (await held.ask("GET", "/v1/providers", 200))["providers"][0]["history"]
    assert (await held.ask("GET", "/v1/history?provider=acme", 200))["providers"][0]["refreshed"]
    await held.ask("GET", "/v1/history?" + "&".join(["provider=p"] * 101), 400)
    await held.ask("GET", "/v1/events", 400)
    await held.ask("POST", "/v1/providers/acme/retry", 202, "/v1/providers/{name}/retry")
    await held.ask("POST", "/v1/providers/no/retry", 400, "/v1/providers/{name}/retry")
    await held.ask("POST", "/v1/notify/test", 200)
    await held.ask("POST", "/v1/sealing/reseal", 200)

    started = await held.ask("POST", f"{at}/login", 200, json={"provider": "acme"})
    await held.ask("GET", f"{at}/login/{started['ticket']}", 200, "/v1/grants/{id}/login/{ticket}")
    await held.ask("GET", f"{at}/login/nobody", 404, "/v1/grants/{id}/login/{ticket}")
    await held.ask("POST", f"{at}/login/complete", 400, json={"redirected_to": "x"})
    await held.ask("GET", f"/login/{started['ticket']}", 302, "/login/{ticket}")
    await held.ask("GET", "/login/nobody", 400, "/login/{ticket}")
    await held.ask("GET", "/callback", 400)
    assert "Logged in" in await log_in(broker, REACHED, "acme")
    started = await held.ask("POST", f"{at}/login", 200, json={"provider": "acme"})
    redirect = await walk_to_redirect(started["authorization_url"], f"{broker.url}/callback")
    await held.ask("POST", f"{at}/login/complete", 200, json={"redirected_to": redirect})
    started = await held.ask("POST", f"{at}/login", 200, json={"provider": "acme", "label": "x"})
    redirect = await walk_to_redirect(started["authorization_url"], f"{broker.url}/callback", user="another")
    await held.ask("POST", f"{at}/login/complete", 409, json={"redirected_to": redirect})
    replace = f"{at}/login/{started['ticket']}/replace"
    await held.ask("POST", replace, 200, "/v1/grants/{id}/login/{ticket}/replace")
    await held.ask("POST", replace, 409, "/v1/grants/{id}/login/{ticket}/replace")
    await held.ask("POST", "/callback", 400, data={"state": "x"})

    lines = json.dumps(new | {"grant_id": "other", "refresh_token": "r"}) + "\n{}\n"
    outcomes = await held.ask("POST", "/v1/import", 200, data=lines)
    outcome = closed(document["components"]["schemas"]["ImportOutcome"])
    for line in outcomes.splitlines():
        jsonschema_rs.validate(outcome, json.loads(line))

    await held.ask("PUT", "/v1/grants/dead", 201, "/v1/grants/{id}", json=new | {"refresh_token": "spent"})
    refused = await held.ask("GET", "/v1/grants/dead/token", 409, "/v1/grants/{id}/token")
    assert refused["login_url"]

    for path in ("/healthz", "/readyz", "/metrics", "/", "/openapi.json", "/session"):
        await held.ask("GET", path, 200)
    await held.ask("GET", "/page/main.js", 200, "/page/{file}")
    await held.ask("GET", "/page/none.js", 404, "/page/{file}")
    await held.ask("GET", f"/readyz/{REACHED}", 200)
    await held.ask("GET", "/readyz/nobody", 404, "/readyz/{id}")
    await held.ask("POST", "/session", 200, json={"key": broker.admin_key}, headers=key)
    await held.ask("GET", "/session", 200)
    await held.ask("POST", "/session/end", 403)
    await held.ask("POST", "/session/end", 200, headers=key)
    await held.ask("POST", "/v1/reload", 200)
    await held.ask("DELETE", at, 200)
    await held.ask("DELETE", at, 404)
    succeeding = {
        (method, path)
        for path, operations in document["paths"].items()
        for method in operations
        if "authorization" not in path
    }
    held.seen |= {("get", "/callback", 200), ("post", "/callback", 200)}  # where the login went; the page's button
    held.seen |= {("get", "/v1/events", 200)}  # a stream, which does not end: see test_events.py
    assert succeeding <= {(method, path) for method, path, status in held.seen if status < 400}


@pytest.mark.timeout(120)
async def test_schemathesis_finds_nothing(broker: RunningBroker, sandbox: Sandbox, tmp_path: Path) -> None:
    """A fuzzer that reads the document asks hundreds of odd things, and hears nothing that is not told."""
    await broker.import_(REACHED, "acme", sandbox.rotating.issue().refresh_token or "")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    run = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{broker.url}/openapi.json",
        "--seed",
        "1",
        "--generation-deterministic",
        "--max-examples",
        "5",
        "--phases",
        "examples,coverage,fuzzing",
        "--warnings",
        "off",
        "--no-color",
        "-H",
        f"Authorization: Bearer {broker.admin_key}",
        "-H",
        "Prefer: wait=0",
        "--exclude-path",
        "/v1/import",
        "--exclude-path",
        "/v1/grants/{id}/authorization/{suffix}",
        "--exclude-checks",
        "positive_data_acceptance,negative_data_rejection,missing_required_header",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await run.communicate()
    print(output.decode())
    assert run.returncode == 0
    generated = re.search(r"([0-9,]+) generated", output.decode())
    assert generated is not None
    assert int(generated[1].replace(",", "")) > 300, "it asked next to nothing"
    assert not broker.events("request.failed")
