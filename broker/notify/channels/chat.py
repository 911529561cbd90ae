"""Notices as Slack, Microsoft Teams and ntfy read them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.notify.words import title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.notify.notice import Notice

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""What Slack asks for in text (docs.slack.dev/messaging/formatting-message-text)."""
_SYMBOLS = {
    "reauthorization_required": "rotating_light",
    "reauthorize_soon": "hourglass",
    "refresh_failing": "warning",
    "provider_suspended": "rotating_light",
    "recovered": "white_check_mark",
}
"""Emoji by the names that Slack and ntfy share."""
_PRIORITIES = {"reauthorization_required": 5, "provider_suspended": 5, "refresh_failing": 4, "recovered": 2}
"""ntfy's priorities, 1 to 5; 3 is its default."""


def cut(text: str, length: int) -> str:
    """Return *text* in at most *length* characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def facts(notice: Notice) -> Iterator[tuple[str, str]]:
    """Yield what is known of a notice, as names and values for people."""
    owned = notice.ownership
    for name, value in (
        ("Grant", notice.grant_id),
        ("Provider", notice.provider),
        ("Account", owned.account and str(owned.account)),
        ("Owner", owned.owner),
        ("Label", owned.label),
    ):
        if value:
            yield name, value


def slack(notice: Notice) -> dict[str, Any]:
    """Return the message of an incoming webhook, in Block Kit (docs.slack.dev/reference/block-kit/blocks)."""
    what, do = notice.words()
    symbol = f":{_SYMBOLS.get(notice.event, 'information_source')}: "
    text = what.translate(_ESCAPES)
    if do != "nothing":
        text += f"\n*Do:* {do.translate(_ESCAPES)}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": cut(symbol + title(notice), 150), "emoji": True}},
        {"type": "section", "text": {"type": "mrkdwn", "text": cut(text, 3000)}},
    ]
    fields = [
        {"type": "mrkdwn", "text": cut(f"*{name}*\n{value.translate(_ESCAPES)}", 2000)} for name, value in facts(notice)
    ]
    if fields:
        blocks[1]["fields"] = fields
    if notice.url and len(notice.url) <= 3000:
        button = {"type": "button", "text": {"type": "plain_text", "text": "Status page"}, "url": notice.url}
        blocks.append({"type": "actions", "elements": [button]})
    return {"text": cut(symbol + title(notice).translate(_ESCAPES), 3000), "blocks": blocks}


def teams(notice: Notice) -> dict[str, Any]:
    """Return the message of a Teams workflow ("when a webhook request is received"): one Adaptive Card."""
    what, do = notice.words()
    body: list[dict[str, Any]] = [
        {"type": "TextBlock", "text": _plain(title(notice)), "weight": "Bolder", "size": "Medium", "wrap": True},
        {"type": "TextBlock", "text": _plain(what), "wrap": True},
        {"type": "FactSet", "facts": [{"title": name, "value": _plain(value)} for name, value in facts(notice)]},
    ]
    if do != "nothing":
        body.insert(2, {"type": "TextBlock", "text": _plain(f"Do: {do}"), "wrap": True})
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [part for part in body if part.get("facts", True)],
    }
    if notice.url:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Status page", "url": notice.url}]
    content = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [content]}


def _plain(text: str) -> str:
    """Return *text* so that a card shows no part of it as Markdown: a bound length, and no links or emphasis."""
    return "".join(f"\\{sign}" if sign in "\\*_[]`" else sign for sign in cut(text, 4000))


def ntfy(notice: Notice, topic: str) -> dict[str, Any]:
    """Return the message for *topic*, to be published as JSON (docs.ntfy.sh/publish/#publish-as-json)."""
    what, do = notice.words()
    text = what if do == "nothing" else f"{what}\nDo: {do}"
    while len(text.encode()) > 4000:  # above 4,096 bytes ntfy makes a file of it
        text = cut(text, len(text) - (len(text.encode()) - 4000 + 3) // 4 - 1)
    message: dict[str, Any] = {
        "topic": topic,
        "title": cut(title(notice), 200),
        "message": text,
        "tags": [_SYMBOLS.get(notice.event, "information_source")],
        "priority": _PRIORITIES.get(notice.event, 3),
    }
    if notice.url:
        message["click"] = notice.url
    return message


def text(notice: Notice) -> str:
    """Return the notice as people read it, in lines."""
    what, do = notice.words()
    lines = [what, "" if do == "nothing" else f"Do: {do}", *(f"{name}: {value}" for name, value in facts(notice))]
    return "\n".join([line for line in (*lines, notice.url or "") if line]) + "\n"
