"""The files of the catalogue: their form, their sources, and templates that cannot lead to another server."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import broker.providers
from broker.settings import Provider
from tests.providers.refusal_lines import BUSY, DEAD

CATALOGUE = Path(broker.providers.__file__).parent / "catalogue"
NAMES = [
    "airtable",
    "apple",
    "asana",
    "atlassian",
    "auth0",
    "basecamp",
    "bitbucket",
    "box",
    "brivo-access",
    "cognito",
    "digitalocean",
    "discord",
    "docusign",
    "dropbox",
    "ebay",
    "entra",
    "exact-online",
    "figma",
    "fitbit",
    "github-app",
    "gitlab",
    "google",
    "hubspot",
    "keycloak",
    "linear",
    "linkedin",
    "microsoft-graph",
    "notion",
    "okta",
    "pipedrive",
    "quickbooks",
    "reddit",
    "salesforce",
    "shopify",
    "slack",
    "slack-user",
    "spotify",
    "square",
    "strava",
    "stripe-apps",
    "tiktok",
    "twitch",
    "x",
    "xero",
    "zendesk",
    "zoho",
    "zoom",
]
FILES = [CATALOGUE / f"{name}.toml" for name in NAMES]
MARKS = (
    "documentation: ",
    "public catalogue: ",
    "third party",
    "from memory, not checked",
    "measured with ",
    "not found",
)
BUILT_IN = [*DEAD, *BUSY, "invalid_client", "incorrect_client_credentials", "unauthorized_client"]
"""Codes that mean the same at every provider: a file must not repeat them."""
ANY_HOST = {"auth0": "domain", "gitlab": "host", "keycloak": "host", "okta": "domain"}
"""Kinds of servers that anybody may run: the only templates that may stand for any host."""
UNSAFE = ("/", "@", "#", "?", "\\", "%", " ", "\t", "\r", "\n", "&", "=", "{", "}", '"', "'", "é")
HEALTHY = (
    "bearer",
    "read write offline_access openid profile email",
    "user@example.com",
    "https://api.example.com/v1",
    "The server is busy. Try again later.",
    "Bad Request",
    "Internal Server Error",
    "Too early",
)
"""Texts of good answers and of bad minutes: no word of a dead token or of a wrong client may stand in them."""
OF_REGISTRATION = {"client_id", "scope"}
"""Names in braces that stand for settings of the provider itself."""
_BRACES = re.compile(r"\{([a-z_]+)\}")


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _urls(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table["settings"].items():
        if key == "issuer" or key.endswith("_endpoint"):
            yield value


@pytest.fixture(params=FILES, ids=NAMES)
def file(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return name and tables of one file after the other."""
    return request.param.stem, _read(request.param)


def test_nothing_is_missing() -> None:
    """Every kind that is promised has its file, and none has two."""
    there = {path.stem for path in CATALOGUE.glob("*.toml")}
    assert there - {"cameramanager", "een-v3", "oauth2", "oidc"} == set(NAMES)
    assert sorted(set(NAMES)) == NAMES


def test_form(file: tuple[str, dict[str, Any]]) -> None:
    """A file has the tables and keys of the form and no others."""
    _, table = file
    assert table.keys() - {"template"} == {"title", "base", "read", "settings", "sources", "notes"}
    assert table["title"].strip() == table["title"] != ""
    assert table["base"] in {"oauth2", "oidc"}
    assert type(table["read"]) is date
    assert table["notes"].keys() == {"lines"}
    for template in table.get("template", {}).values():
        assert (
            {"description", "pattern", "example"} <= template.keys() <= {"description", "pattern", "example", "default"}
        )


def test_lines_are_short() -> None:
    """A file is read by people: its lines have at most 120 characters."""
    long = [(path.name, line) for path in FILES for line in path.read_text("utf-8").splitlines() if len(line) > 120]
    assert not long


def test_every_setting_has_a_source(file: tuple[str, dict[str, Any]]) -> None:
    """Each fact says where it is from: a page, a public catalogue, somebody else, or nobody's page."""
    _, table = file
    assert table["settings"].keys() <= table["sources"].keys()
    for key, source in table["sources"].items():
        assert re.fullmatch("[a-z_]+", key)
        assert "/work" not in source
        assert any(mark in source for mark in MARKS), (key, source)
    order = [key for key in table["sources"] if key in table["settings"]]
    assert order == list(table["settings"]), "the sources stand in the order of the settings"


def test_notes_are_sentences(file: tuple[str, dict[str, Any]]) -> None:
    """The notes say what a person must do, one sentence or two each."""
    _, table = file
    notes = table["notes"]["lines"]
    assert notes
    assert all(note[0].isupper() and note.endswith(".") and "\n" not in note for note in notes), notes


def test_endpoints(file: tuple[str, dict[str, Any]]) -> None:
    """Endpoints are https URLs without user, port tricks, query or fragment; oauth2 has both that a login needs."""
    _, table = file
    settings = table["settings"]
    for url in _urls(table):
        parts = urlsplit(url)
        assert (parts.scheme, parts.username, parts.query, parts.fragment) == ("https", None, "", ""), url
        assert parts.netloc, url
    needed = {"issuer"} if table["base"] == "oidc" else {"authorization_endpoint", "token_endpoint"}
    assert needed <= settings.keys()


def test_no_secret_and_no_registration(file: tuple[str, dict[str, Any]]) -> None:
    """A file knows nothing of one registration, and never softens what keeps a login safe."""
    _, table = file
    settings = table["settings"]
    assert not settings.keys() & {"kind", "client_id", "client_secret", "client_secret_file", "allow_http", "state"}
    assert not {"state", "code_challenge", "code_challenge_method", "code_verifier"} & {
        name for key in settings if key.endswith("_params") for name in settings[key]
    }


def test_templates_are_used_and_declared(file: tuple[str, dict[str, Any]]) -> None:
    """Each name in braces is declared, and each declared name stands somewhere."""
    _, table = file
    used = {name for text in _texts(table["settings"]) for name in _BRACES.findall(text)}
    assert used - OF_REGISTRATION == table.get("template", {}).keys()


def test_patterns_accept_their_example_and_no_separator(file: tuple[str, dict[str, Any]]) -> None:
    """A value is one part of a URL: no character in it can end that part, or begin another."""
    _, table = file
    for template in table.get("template", {}).values():
        match = re.compile(template["pattern"]).fullmatch
        assert match(template["example"])
        assert template.get("default") is None or match(template["default"])
        assert not match("")
        for good in {template["example"], template.get("default", template["example"])}:
            for sign in UNSAFE:
                assert not any(match(bad) for bad in (good + sign, sign + good, good + sign + good, sign)), sign
        assert not match(".")
        assert not match("..")


def test_a_value_cannot_name_another_host(file: tuple[str, dict[str, Any]]) -> None:
    """A value that is part of a host is one label of it or one of a list; any host only at servers of anybody."""
    name, table = file
    for url in _urls(table):
        netloc = url.split("/")[2]
        for template in _BRACES.findall(netloc):
            match = re.compile(table["template"][template]["pattern"]).fullmatch
            good = table["template"][template]["example"]
            assert not any(match(bad) for bad in (f"{good}.", f".{good}", f"{good}..{good}"))
            if ANY_HOST.get(name) == template:
                assert netloc == f"{{{template}}}"
                continue
            assert not match("evil.example")
            assert not match("evil.example:443")
            assert not match("-evil")
            if netloc.endswith(f"{{{template}}}"):
                assert not match("example"), "the end of a host must be one of a list"


def test_words_are_specific(file: tuple[str, dict[str, Any]]) -> None:
    """Words of a refusal repeat no built-in code, contradict none another, and stand in no healthy text."""
    _, table = file
    lists = [table["settings"].get(f"{kind}_errors", []) for kind in ("dead", "busy", "registration")]
    words = [word.lower() for words in lists for word in words]
    assert len(words) == len(set(words))
    for word in words:
        assert word == word.strip()
        assert len(word) >= 10
        assert word not in BUILT_IN
        assert not any(word in text.lower() for text in HEALTHY)
    dead, _, registration = ([word.lower() for word in words] for words in lists)
    assert not any(one in other or other in one for one in dead for other in registration)


def test_what_is_not_shipped_is_listed() -> None:
    """A provider that cannot work is named with a reason, and not shipped as well."""
    page = (CATALOGUE / "NOT_SHIPPED.md").read_text("utf-8")
    for name in (
        "GitHub OAuth App",
        "Mailchimp",
        "Facebook",
        "Instagram",
        "TikTok Ads",
        "Withings",
        "Revolut Business",
    ):
        assert f"| {name}" in page


@pytest.mark.parametrize(
    ("kind", "key", "own"),
    [
        ("figma", "refresh_endpoint", "https://API.figma.com/v2/token"),
        ("google", "revocation_endpoint", "https://oauth2.googleapis.com/other"),
        ("gitlab", "revocation_endpoint", "https://gitlab.com/other"),
        ("cameramanager", "logout_endpoint", "https://rest.cameramanager.com/other"),
    ],
)
def test_tokens_of_another_host_do_not_go_to_the_kind(kind: str, key: str, own: str) -> None:
    """Where the token endpoint is another host's, no other host gets its tokens, unless the settings say so."""
    registration = {"kind": kind, "client_id": "x", "client_secret": "PASSWORD"}
    elsewhere = registration | {"token_endpoint": "https://elsewhere.test/token"}
    for kept in (registration, registration | {"token_endpoint": own}):
        assert getattr(Provider(**kept), key) is not None
    assert getattr(Provider(**elsewhere), key) is None
    assert getattr(Provider(**elsewhere, **{key: "https://chosen.test/r"}), key) == "https://chosen.test/r"
