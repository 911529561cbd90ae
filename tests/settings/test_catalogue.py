"""The catalogue: its form, its templates, how settings lie over it, and what is found wrong in a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import InvalidSettings
from broker.providers.dialects import Dialect
from broker.settings import Provider, Settings, catalogue
from broker.settings.file import load
from tests.settings.conftest import REDIS, Wrong

SHOP = """\
title = "A shop"
base = "oauth2"
read = 2026-11-30

[settings]
authorization_endpoint = "https://{shop}.acme.test/authorize"
token_endpoint = "https://{shop}.acme.test/token"
token_endpoint_auth_method = "client_secret_post"
authorization_params = { access_type = "offline", prompt = "consent" }
dead_statuses = [403]

[template.shop]
description = "the name of the shop"
pattern = "[a-z0-9-]{1,20}"
example = "acme"

[sources]
token_endpoint = "documentation: acme.test"
"""
ALL_KINDS = "`token-broker providers` lists all kinds; oauth2 and oidc are for any other server"
A_SHOP = '[providers.a]\nkind = "shop"\nclient_id = "x"\nclient_secret = "PASSWORD"\n'


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a catalogue of the two bases and a shop."""
    directory = tmp_path / "catalogue"
    directory.mkdir()
    for base in catalogue.BASES:
        shutil.copy(catalogue.DIRECTORY / f"{base}.toml", directory)
    (directory / "shop.toml").write_text(SHOP)
    monkeypatch.setattr(catalogue, "DIRECTORY", directory)
    return directory


def test_settings_lie_over_the_kind(loaded: Callable[..., Settings]) -> None:
    """A template is replaced; a key of the file replaces the kind's, and of a table only that key."""
    provider = loaded(
        REDIS + A_SHOP + 'parameters = { shop = "b-2" }\nauthorization_params = { prompt = "", x = "y" }\n'
        'authorization_endpoint = "https://other.test/authorize"\n'
    ).providers["a"]
    assert provider.token_endpoint == "https://b-2.acme.test/token"
    assert provider.authorization_endpoint == "https://other.test/authorize"
    assert provider.authorization_params == {"access_type": "offline", "prompt": "", "x": "y"}
    dialect = Dialect.from_settings("a", provider)
    assert (dialect.kind, dialect.parameters, dialect.dead_statuses) == ("shop", "body", frozenset({403}))
    assert dialect.token_endpoint_auth_method == "client_secret_post"


def test_the_environment_sets_a_parameter(loaded: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for one parameter and a table as JSON; a word still says where parameters go."""
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__A__PARAMETERS__SHOP", "b-2")
    assert loaded(REDIS + A_SHOP).providers["a"].token_endpoint == "https://b-2.acme.test/token"
    monkeypatch.delenv("TOKEN_BROKER_PROVIDERS__A__PARAMETERS__SHOP")
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__A__PARAMETERS", '{"shop": "b-3"}')
    assert loaded(REDIS + A_SHOP).providers["a"].token_endpoint == "https://b-3.acme.test/token"
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__A__PARAMETERS", "query")
    plain = A_SHOP.replace('"shop"', '"oauth2"') + 'token_endpoint = "https://acme.test/token"\n'
    assert Dialect.from_settings("a", loaded(REDIS + plain).providers["a"]).parameters == "query"


def test_a_public_client_of_a_kind(loaded: Callable[..., Settings]) -> None:
    """The kind's client authentication is for clients with a secret."""
    public = A_SHOP.replace('client_secret = "PASSWORD"', 'parameters = { shop = "b" }')
    dialect = Dialect.from_settings("a", loaded(REDIS + public).providers["a"])
    assert dialect.token_endpoint_auth_method == "none"


@pytest.mark.parametrize(
    ("given", "finding"),
    [
        ("", 'parameters.shop: is missing: it is the name of the shop; write parameters = { shop = "acme" }'),
        ('parameters = "query"', "parameters.shop: is missing: it is the name of the shop; write parameters"),
        ('parameters = { shop = "A b" }', 'parameters.shop: must be the name of the shop, such as "acme" (pattern: '),
        ("parameters = { shop = 5 }", "parameters.shop: must be the name of the shop"),
        ('parameters = { shop = "b", shpo = "c" }', "parameters.shpo: no such parameter: did you mean shop?"),
        ('parameters = { shop = "b", x = "c" }', "parameters.x: no such parameter: kind 'shop' has shop"),
        ("parameters = [1]", 'parameters: must be "body" or "query", or a table of the values that the kind asks for'),
    ],
)
def test_wrong_parameters(wrong: Wrong, given: str, finding: str) -> None:
    """A missing, an unknown and an unfit value: line and key, what is allowed, an example; never the value."""
    (found,) = wrong(REDIS + A_SHOP + given)
    assert found.startswith(f"broker.toml:{7 if given else 3}: providers.a.{finding}")
    assert "A b" not in found


def test_a_parameter_that_no_value_needs(loaded: Callable[..., Settings]) -> None:
    """Who sets every endpoint with a template needs no parameter for it."""
    ends = 'authorization_endpoint = "https://b.test/a"\ntoken_endpoint = "https://b.test/t"\n'
    assert loaded(REDIS + A_SHOP + ends).providers["a"].token_endpoint == "https://b.test/t"


def test_a_kind_without_parameters(wrong: Wrong) -> None:
    """A table where the kind asks for nothing."""
    plain = A_SHOP.replace('"shop"', '"oauth2"') + 'token_endpoint = "https://a.test"\nparameters = { shop = "b" }\n'
    (found,) = wrong(REDIS + plain)
    assert found.endswith('parameters.shop: kind "oauth2" has no parameters of its own: remove it')


def test_an_unknown_kind(wrong: Wrong) -> None:
    """The finding says what is near, and what lists all kinds; other mistakes of the same table are found too."""
    (kind, method) = wrong(REDIS + A_SHOP.replace('"shop"', '"Shopp"') + "pkce = 5\n")
    assert kind == "broker.toml:4: providers.a.kind: no such kind: did you mean shop? " + ALL_KINDS
    assert method == "broker.toml:7: providers.a.pkce: must be true or false"


@pytest.mark.parametrize(
    ("old", "new", "findings"),
    [
        ('base = "oauth2"', 'bas = "oauth2"', ("2: bas: no such key; allowed: title, base, read, ",)),
        ('base = "oauth2"', 'base = "saml"', ("2: base: must be 'oauth2' or 'oidc'",)),
        ("read = 2026-11-30", "", ("1: read: is missing",)),
        ("dead_statuses = [403]", "dead_status = [403]", ("10: settings.dead_status: no such setting: did you mean",)),
        ("dead_statuses = [403]", 'dead_statuses = "x"', ("10: settings.dead_statuses: must be a list",)),
        ("dead_statuses = [403]", 'client_id = "x"', ("10: settings.client_id: no such setting of [providers.NAME]",)),
        ("dead_statuses = [403]", 'scope = "{area}"', ("10: settings.scope: {area} has no template: add [template.",)),
        ("{shop}", "shop", ("12: template.shop: stands in no setting: write {shop} in one, or remove it",)),
        ('"acme"', '"ACME"', ("14: template.shop.pattern: must match the example and the default",)),
        ("[a-z0-9-]{1,20}", "[a-z", ("14: template.shop.pattern: must be a regular expression",)),
        ("[sources]", "[sources", ("17: is not TOML, column 9",)),
        ("[sources]", "[settings]", ("17: is not TOML, column 10: cannot declare [settings] twice",)),
        ("[sources]", "[template.shop]", ("17: is not TOML",)),
    ],
)
def test_a_wrong_file(directory: Path, old: str, new: str, findings: tuple[str, ...]) -> None:
    """Whatever is wrong in a file of the catalogue: its line, and what is allowed."""
    assert old in SHOP
    (directory / "shop.toml").write_text(SHOP.replace(old, new))
    given = {"kind": "shop", "client_id": "x", "client_secret": "y", "parameters": {"shop": "b"}}
    with pytest.raises(InvalidSettings) as caught:
        Provider.model_validate(given)
    assert len(caught.value.findings) == len(findings)
    for found, expected in zip(caught.value.findings, findings, strict=True):
        assert found.startswith(f"{directory}/shop.toml:{expected}")


def test_a_wrong_file_ends_the_reading(directory: Path, file: Path) -> None:
    """Whoever reads settings of such a kind gets the findings of the catalogue's file."""
    (directory / "shop.toml").write_text(SHOP.replace("read = 2026-11-30", "read = 5"))
    file.write_text(REDIS + A_SHOP)
    with pytest.raises(InvalidSettings, match=r"shop\.toml:3: read: must be a date, such as 2026-"):
        load(file)


@pytest.mark.parametrize("deep", ["x = " + "[" * 5_000, ".".join("x" * 1_000) + " = 1", "x = " + "9" * 5_000])
def test_a_file_beyond_the_parser(directory: Path, deep: str) -> None:
    """A file of brackets, with a key of a thousand dots or a number of 5,000 digits, is no TOML for a kind."""
    (directory / "shop.toml").write_text(SHOP.replace("[template", f"{deep}\n[template"))
    with pytest.raises(InvalidSettings, match=r"shop\.toml: is not TOML for a kind of provider"):
        catalogue.load("shop")


def test_headers_from_the_environment(loaded: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable holds the table of headers as JSON, files included."""
    monkeypatch.setenv("TOKEN_BROKER_PROVIDERS__A__HEADERS", '{"api-key": {"file": "/run/key"}, "Accept": "x"}')
    provider = loaded(REDIS + A_SHOP + 'parameters = { shop = "b" }').providers["a"]
    assert provider.secret_files == {"headers.api-key.file": Path("/run/key")}
    assert provider.headers["Accept"] == "x"


def test_only_the_kinds_that_are_used_are_read(directory: Path, loaded: Callable[..., Settings]) -> None:
    """A file that no provider is of is not even opened."""
    (directory / "broken.toml").write_text("[")
    assert loaded(REDIS + A_SHOP + 'parameters = { shop = "b" }').providers["a"].kind == "shop"


@pytest.mark.parametrize("name", ["SHOP.toml", "Sh_op.toml"])
def test_names(directory: Path, name: str) -> None:
    """Two files of one name, whatever their case, and a name that is none."""
    (directory / name).write_text(SHOP)
    with pytest.raises(InvalidSettings, match="lower-case letters") as caught:
        catalogue.names()
    alike = [found for found in caught.value.findings if "has the name of" in found]
    assert len(alike) == (name == "SHOP.toml")


def test_braces_of_an_answer_are_kept(directory: Path) -> None:
    """The braces of account_endpoint stand for members of a token response."""
    file = catalogue._File.model_validate(
        {"title": "x", "read": "2026-11-30", "settings": {"account_endpoint": "https://{instance_url}/me"}}
    )
    assert list(catalogue._wrong_templates(file)) == []


class TestShipped:
    """Every file that is shipped."""

    @pytest.fixture(autouse=True)
    def _shipped(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalogue, "DIRECTORY", SHIPPED)

    @pytest.mark.parametrize("name", catalogue.names())
    def test_every_file_is_right(self, name: str) -> None:
        """It makes a provider, and each of its settings has a source."""
        kind = catalogue.load(name)
        must = {"issuer": "https://issuer.test", "token_endpoint": "https://issuer.test/token"}
        examples = {each: template.example for each, template in kind.templates.items()}
        given = {"kind": name, "client_id": "x", "client_secret": "y", "parameters": examples or None}
        missing = must.keys() - kind.settings.keys()
        provider = Provider.model_validate(given | ({key: must[key] for key in missing}))
        assert Dialect.from_settings("a", provider).kind == name
        own = kind.settings.keys() - (catalogue.load(kind.base).settings.keys() if name != kind.base else set())
        assert not own - {key.partition(".")[0] for key in kind.sources}


SHIPPED = catalogue.DIRECTORY
