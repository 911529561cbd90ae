"""The pages that a resource owner sees: plain HTML that works without scripts, styles or images."""

from __future__ import annotations

from html import escape

from aiohttp import web

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - {server}</title>
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 10vh auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }}
label, input, button {{ display: block; font: inherit; width: 100%; box-sizing: border-box; }}
input, button {{ padding: .5rem; margin: 0 0 1rem; border: 1px solid #555; border-radius: .25rem; }}
button {{ background: #1f4e8c; color: #fff; }} button.quiet {{ background: #fff; color: #1b1b1b; }}
:focus-visible {{ outline: 3px solid #e8a100; outline-offset: 2px; }}
[role=alert] {{ border-left: .3rem solid #a40000; padding-left: .7rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
<footer><small>{server}: a sandbox. Nothing here is real.</small></footer>
</body>
</html>
"""

# No action attribute anywhere: a form without one is posted to the page's own URL, query included, exactly as
# it was written. Rebuilding that URL would change a percent-encoded redirect_uri.
_LOGIN = """{alert}<form method="post">
<label for="user">User name</label>
<input id="user" name="user" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button name="step" value="login">Sign in</button>
</form>
<p>Any user name will do, for instance <kbd>{user}</kbd>; the password is <kbd>{password}</kbd>.</p>"""

_CONSENT = """<p>Signed in as <strong>{user}</strong>.</p>
<p><strong>{client}</strong> asks for access{scope}.</p>
<p>You will be sent to <strong>{destination}</strong>.</p>
<form method="post">
<input type="hidden" name="csrf" value="{csrf}">
<button name="decision" value="allow">Allow</button>
<button name="decision" value="deny" class="quiet">Deny</button>
</form>"""

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # No form-action: browsers apply it to the redirect after the form too, which leads to the client.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}


def login_page(server: str, *, user: str, password: str, failed: bool = False) -> web.Response:
    """Return the page that asks for user name and password; 403 after a *failed* attempt."""
    alert = '<p role="alert">Wrong user name or password.</p>\n' if failed else ""
    content = _LOGIN.format(alert=alert, user=escape(user), password=escape(password))
    return _page(server, "Sign in", content, status=403 if failed else 200)


def consent_page(server: str, *, user: str, client: str, scope: str, destination: str, csrf: str) -> web.Response:
    """Return the page that asks whether *client* may have *scope*."""
    return _page(
        server,
        "Allow access?",
        _CONSENT.format(
            user=escape(user),
            client=escape(client),
            scope=f" to <strong>{escape(scope)}</strong>" if scope else "",
            destination=escape(destination),
            csrf=escape(csrf),
        ),
    )


def error_page(server: str, message: str, *, status: int = 400) -> web.Response:
    """Return a page for an error that must not be sent back to the client (RFC 6749 §4.1.2.1)."""
    content = f'<p role="alert">{escape(message)}</p>'
    return _page(server, "This request cannot be honoured", content, status=status)


def _page(server: str, title: str, content: str, *, status: int = 200) -> web.Response:
    text = _PAGE.format(title=escape(title), server=escape(server), content=content)
    return web.Response(text=text, content_type="text/html", status=status, headers=HEADERS)
