"""A browser just good enough to sign in: it follows redirects, keeps cookies, fills in the sandbox's forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

from aiohttp import ClientSession, ClientTimeout, CookieJar
from yarl import URL

from broker.sandbox.authorize import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_STEPS: Final = 20
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONFIRM: Final = ("confirm", "yes")
"""The button of a client that asks whether the login was this person's."""
_OK: Final = range(200, 300)


class BrowserError(Exception):
    """The walk did not end on a page; `status`, `url` (without its query) and the page's `text` show where."""

    def __init__(self, reason: str, url: URL, *, status: int = 0, text: str = "") -> None:
        """Keep where it happened; the query may hold a code, so the message omits it."""
        self.status = status
        self.url = str(url.with_query(None))
        self.text = text
        super().__init__(f"{reason} at {self.url}")


@dataclass(frozen=True, slots=True)
class Person:
    """The user in front of the browser, and the button that they press."""

    user: str
    password: str
    consent: str


@dataclass(slots=True)
class Form:
    """A parsed form: fields with their values, and the buttons that send it."""

    action: str = ""
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    password: str | None = None
    """The name of its password field."""


async def walk_login(
    login_url: str,
    *,
    user: str = USER,
    password: str = PASSWORD,
    consent: str = "allow",
    timeout: float = 30.0,
) -> str:
    """Open *login_url*, sign in, press *consent* ("allow" or "deny") and return the text of the last page.

    A client that asks whether the login was this person's gets a yes.

    *timeout* is seconds per request.

    Raises:
        BrowserError: a page responded with something other than 2xx, or the redirects do not end.
        aiohttp.ClientError: a server on the way cannot be reached.

    """
    async with _session(timeout) as session:
        return (await _walk(session, login_url, Person(user, password, consent)))[1]


async def walk_to_redirect(
    login_url: str,
    redirect_uri: str,
    *,
    user: str = USER,
    password: str = PASSWORD,
    consent: str = "allow",
    timeout: float = 30.0,
) -> str:
    """Do as `walk_login`, but return the URL that leads back to *redirect_uri* instead of opening it.

    Raises:
        BrowserError: as for `walk_login`; also if the walk ends on a page before that.

    """
    async with _session(timeout) as session:
        url, text = await _walk(session, login_url, Person(user, password, consent), until=redirect_uri)
    if not str(url).startswith(redirect_uri):
        reason = "no redirect to the client"
        raise BrowserError(reason, url, text=text)
    return str(url)


def _session(timeout: float) -> ClientSession:
    # unsafe: the jar would otherwise drop the cookies of hosts that are IP addresses.
    return ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=ClientTimeout(total=timeout))


async def _walk(session: ClientSession, start: str, person: Person, *, until: str | None = None) -> tuple[URL, str]:
    # Encoded throughout: yarl would otherwise rewrite percent-encoding that a strict server checks.
    url, method, data, origin = URL(start, encoded=True), "GET", None, ""
    for _ in range(_MAX_STEPS):
        if until is not None and str(url).startswith(until):
            return url, ""
        # As a browser does: a form names the origin of its page.
        headers = {"Origin": origin} if method == "POST" else {}
        async with session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            status, location = response.status, response.headers.get("Location")
            text = await response.text()
        if status in _REDIRECTS and location is not None:
            url = url.join(URL(location, encoded=True))
            if status not in {307, 308}:
                method, data = "GET", None
            continue
        if status not in _OK:
            reason = f"HTTP {status}"
            raise BrowserError(reason, url, status=status, text=text)
        filled = _filled(parse_forms(text), person)
        if filled is None:
            return url, text
        form, data = filled
        method, origin = form.method.upper(), str(url.origin())
        url = url.join(URL(form.action, encoded=True)) if form.action else url
    reason = "too many steps"
    raise BrowserError(reason, url)


def _filled(forms: list[Form], person: Person) -> tuple[Form, Mapping[str, str]] | None:
    """Return the form to send and its data: a login, a consent with the chosen button, or a client's confirmation.

    None if there is none of them.
    """
    for form in forms:
        if form.password is not None:
            name = next((name for name in form.fields if name != form.password), "user")
            button = dict(form.buttons[:1])
            return form, {**form.fields, name: person.user, form.password: person.password, **button}
        if ("decision", person.consent) in form.buttons:
            return form, {**form.fields, "decision": person.consent}
        if _CONFIRM in form.buttons:
            return form, {**form.fields, **dict([_CONFIRM])}
    return None


def parse_forms(html: str) -> list[Form]:
    """Return the forms of a page, in order."""
    parser = _Forms()
    parser.feed(html)
    parser.close()
    return parser.forms


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(given.get("action", ""), given.get("method", "get").lower())
            self.forms.append(self._open)
        elif self._open is not None and tag in {"input", "button"} and given.get("name"):
            self._add(self._open, tag, given)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None

    def _add(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, value = given["name"], given.get("value", "")
        if tag == "button" or given.get("type") == "submit":
            form.buttons.append((name, value))
            return
        form.fields[name] = value
        if given.get("type") == "password":
            form.password = name
