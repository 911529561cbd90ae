"""Pages for people: what happened, and what to do. Knows no route and no login."""

from __future__ import annotations

import html
import json
import re
from http import HTTPStatus
from importlib import resources

from aiohttp import hdrs, web

from broker.api.targets import wants_page

_DECORATION = '<svg width="24" height="24" aria-hidden="true" '
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · token-broker</title>
<style>
:root {{ color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif }}
body {{ margin: 6vh auto; max-width: 34rem; padding: 0 1.5rem; overflow-wrap: anywhere }}
header {{ display: flex; align-items: center; gap: .5rem; font-weight: 600; margin-bottom: 5vh }}
h1 {{ font-size: 1.5rem; margin: 0 0 .75rem }} h1::before {{ content: "{sign} " }}
code {{ font-size: .95em }} button {{ font: inherit; padding: .3rem .8rem }}
</style></head><body><header>{mark}token-broker</header><main><h1>{title}</h1><p>{text}</p>{form}</main></body></html>
"""
_MARK = resources.files("broker.api").joinpath("page/icon.svg").read_text("utf-8").replace("<svg ", _DECORATION, 1)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FORM_HEADERS = HEADERS | {"Referrer-Policy": "strict-origin"}
"""With `no-referrer` a browser sends `Origin: null` with a form, and the origin could not be checked (Fetch §3.2)."""


def page(status: int, title: str, text: str, *, good: bool = False, form: str = "") -> web.Response:
    """Make a page.

    Args:
        status: the HTTP status.
        title: what happened; text, not HTML.
        text: what it means, and what to do; text, not HTML. It may be the words of an error, which begin small and end
            without a full stop.
        good: whether it is good news.
        form: HTML below the text.
    """
    text = text[:1].upper() + text[1:] + ("" if text.endswith((".", ".)", "!", "?")) else ".")
    body = _PAGE.format(
        mark=_MARK,
        title=html.escape(title),
        text=_coded(html.escape(text)),
        sign=_sign(status, good=good),
        form=form,
    )
    headers = _FORM_HEADERS if form else HEADERS
    return web.Response(status=status, text=body, content_type="text/html", charset="utf-8", headers=headers)


def _sign(status: int, *, good: bool) -> str:
    if good:
        return "✓"
    return "?" if status == HTTPStatus.OK else "✗"


def _coded(text: str) -> str:
    """Return HTML with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def for_reader(response: web.Response, target: str, accept: str = "") -> web.Response:
    """Return the response of an error, or a page that says the same where a person reads it.

    Args:
        response: as `error_response` makes it.
        target: path and query of the request.
        accept: the request's `Accept`.
    """
    if not wants_page(target, accept):
        return response
    assert isinstance(response.body, bytes)  # noqa: S101 - `error_response` makes no other
    text = json.loads(response.body)["error_description"]
    if response.status == HTTPStatus.NOT_FOUND:
        text = "there is no such page"
    made = page(response.status, HTTPStatus(response.status).phrase.capitalize(), text)
    made.headers.update(
        {name: response.headers[name] for name in (hdrs.ALLOW, hdrs.RETRY_AFTER) if name in response.headers}
    )
    if not response.keep_alive and response.keep_alive is not None:
        made.force_close()
    return made
