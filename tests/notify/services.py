"""Stand-ins for services that get notices: one server on loopback that accepts what the services' own schemas accept.

Each schema holds what the service requires and every member that a notice may use, with its bounds. Other members are
refused, so that a misspelled one is found. The sources are named beside each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from aiohttp import web

from tests.ports import free_port

TEXT = {"type": "string", "minLength": 1}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
URL = {"type": "string", "pattern": "^https?://"}


def table(required: str, optional: str = "", **members: Any) -> dict[str, Any]:
    """Return the schema of an object with these members, and no others."""
    named = {name: members.get(name, TEXT) for name in (*required.split(), *optional.split())}
    return {
        "type": "object",
        "required": required.split(),
        "properties": named | members,
        "additionalProperties": False,
    }


def items(schema: dict[str, Any], most: int = 1000) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": most}


def bounded(most: int) -> dict[str, Any]:
    """Return the schema of a text of *most* characters."""
    return TEXT | {"maxLength": most}


# docs.slack.dev/reference/block-kit: blocks/header-block, section-block, actions-block, block-elements/button-element
_PLAIN = table("type text", type={"const": "plain_text"}, text=bounded(150), emoji={"type": "boolean"})
SLACK = table(
    "text blocks",
    blocks=items(
        {
            "oneOf": [
                table("type text", type={"const": "header"}, text=_PLAIN),
                table(
                    "type text",
                    type={"const": "section"},
                    text=table("type text", type={"const": "mrkdwn"}, text=bounded(3000)),
                    fields=items(table("type text", type={"const": "mrkdwn"}, text=bounded(2000)), 10),
                ),
                table(
                    "type elements",
                    type={"const": "actions"},
                    elements=items(
                        table("type text", type={"const": "button"}, text=_PLAIN, url=URL | {"maxLength": 3000}), 25
                    ),
                ),
            ]
        },
        50,
    ),
)
# adaptivecards.io/schemas/adaptive-card.json, version 1.4; the envelope: learn.microsoft.com/power-automate/…/teams
_ELEMENT = {
    "oneOf": [
        table(
            "type text",
            "size weight",
            type={"const": "TextBlock"},
            wrap={"type": "boolean"},
            size={"enum": ["Default", "Small", "Medium", "Large", "ExtraLarge"]},
            weight={"enum": ["Default", "Lighter", "Bolder"]},
        ),
        table("type facts", type={"const": "FactSet"}, facts=items(table("title value"))),
    ]
}
_CARD = table(
    "type version body",
    "$schema",
    type={"const": "AdaptiveCard"},
    version={"const": "1.4"},
    body=items(_ELEMENT),
    actions=items(table("type url", "title", type={"const": "Action.OpenUrl"}, url=URL)),
)
TEAMS = table(
    "type attachments",
    type={"const": "message"},
    attachments=items(
        table(
            "contentType content",
            contentType={"const": "application/vnd.microsoft.card.adaptive"},
            contentUrl={"type": "null"},
            content=_CARD,
        ),
        1,
    ),
)
# docs.ntfy.sh/publish/#publish-as-json
NTFY = table(
    "topic message",
    "title",
    topic={"type": "string", "pattern": "^[-_A-Za-z0-9]{1,64}$"},
    tags=items(TEXT),
    priority={"type": "integer", "minimum": 1, "maximum": 5},
    click=URL,
)
# github.com/PagerDuty/api-schema, reference/events-v2; bounds: developer.pagerduty.com/docs/events-api-v2
_SEVERITY = {"enum": ["critical", "error", "warning", "info"]}
_PAYLOAD = table(
    "summary severity source",
    "component group class",
    summary=bounded(1024),
    severity=_SEVERITY,
    timestamp=TIME,
    custom_details={"type": "object"},
)
PAGERDUTY = {
    "oneOf": [
        table(
            "routing_key event_action payload",
            "client",
            event_action={"const": "trigger"},
            dedup_key=bounded(255),
            payload=_PAYLOAD,
            client_url=URL,
            links=items(table("href", "text", href=URL)),
        ),
        table("routing_key event_action dedup_key", event_action={"const": "resolve"}, dedup_key=bounded(255)),
    ]
}
# github.com/prometheus/alertmanager, api/v2/openapi.yaml: postableAlerts; names of labels: the data model of Prometheus
_LABELS = {
    "type": "object",
    "additionalProperties": TEXT,
    "propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
}
ALERTMANAGER = items(table("labels", labels=_LABELS, annotations=_LABELS, startsAt=TIME, endsAt=TIME, generatorURL=URL))

PATHS: dict[str, tuple[str, dict[str, Any], int]] = {
    "slack": ("/services/T0/B0/slack-secret", SLACK, 200),
    "teams": ("/workflows/teams-secret", TEAMS, 202),
    "ntfy": ("/ntfy", NTFY, 200),
    "pagerduty": ("/v2/enqueue", PAGERDUTY, 202),
    "alertmanager": ("/api/v2/alerts", ALERTMANAGER, 200),
}
"""Where each service listens, what it accepts, and the status of its success."""


@dataclass(slots=True)
class Services:
    """All services on one port. What a schema refuses gets 400, as there, and is kept in `refused`."""

    port: int = field(default_factory=free_port)
    got: dict[str, list[Any]] = field(default_factory=lambda: {kind: [] for kind in PATHS})
    keys: dict[str, str | None] = field(default_factory=dict)
    """The last Authorization header of each service."""
    refused: list[str] = field(default_factory=list)
    down: bool = False
    """Whether everything is answered with 503."""
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        for kind, (path, schema, status) in PATHS.items():
            app.router.add_post(path, self._handler(kind, schema, status))
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    def _handler(self, kind: str, schema: dict[str, Any], status: int) -> Any:
        validator = jsonschema.Draft202012Validator(schema)

        async def handle(request: web.Request) -> web.Response:
            if self.down:
                return web.Response(status=503)
            body = json.loads(await request.read())
            self.keys[kind] = request.headers.get("Authorization")
            if request.content_type != "application/json" or (found := next(validator.iter_errors(body), None)):
                self.refused.append(f"{kind}: {found}")
                return web.Response(status=400)
            self.got[kind].append(body)
            return web.Response(status=status)

        return handle
