"""The settings: one TOML file, the environment over it, secrets from files.

Owns their schema, defaults and cross-checks, and nothing of what they are used for. `settings_source` reads
the file and the environment and words the errors.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.model import GRANT_ID

LEASE_MARGIN = timedelta(seconds=5)
"""Room between the end of a token request and the end of its lease: journal, commit, and slow clocks."""

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    msg = 'a duration with its unit, such as "90s", "5m", "12h" or "14d"'
    raise ValueError(msg)


def _grace(value: object) -> object:
    return value if value == "forever" else _duration(value)


def _pattern(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._*?-]{1,128}", value):
        msg = 'a pattern of grant ids, such as "acme-*" ("*" is all, "?" one character)'
        raise ValueError(msg)
    return value


def _listen(value: str) -> str:
    if value.startswith("unix:/"):
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - TCP
        msg = 'an address and a port, such as "127.0.0.1:8080" or "[::1]:8080", or "unix:/run/token-broker/http.sock"'
        raise ValueError(msg)
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://", "embedded:")):
        msg = "a URL that begins with redis://, rediss://, unix:// or embedded:"
        raise ValueError(msg)
    return value


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
        msg = "an http:// or https:// URL without user, password or fragment"
        raise ValueError(msg)
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(json_schema_extra={"format": "duration"})]
Grace = Annotated[timedelta | Literal["forever"], BeforeValidator(_grace)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Listen = Annotated[str, AfterValidator(_listen)]
WebUrl = Annotated[str, AfterValidator(_web_url)]


class Section(BaseModel):
    """A table of the settings file: unknown keys are errors, and nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Http(Section):
    """Where callers and browsers reach us."""

    listen: list[Listen] = Field(default=["127.0.0.1:8080"], min_length=1, description="addresses to listen on")
    public_listen: list[Listen] = Field(
        default=[],
        description="further addresses that serve /login and /callback only: the side that faces the internet",
    )
    public_url: WebUrl = Field(
        default="http://127.0.0.1:8080",
        description="our URL as a browser sees it; the redirect_uri is public_url + /callback",
    )
    drain_delay: Duration = Field(
        default=timedelta(seconds=3), description="on SIGTERM, how long to keep serving after /readyz turned 503"
    )
    allow_plain_http: bool = Field(
        default=False, description="listen beyond loopback without TLS in front: the word that says you know"
    )
    socket_mode: str = Field(default="0660", pattern=r"^0?[0-7]{3}$", description="mode of a unix: socket")


class Redis(Section):
    """Where grants are kept."""

    url: Annotated[str, AfterValidator(_redis_url)] = Field(description="redis:// rediss:// unix:// or embedded:")
    namespace: str = Field(
        default="broker",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="in front of every key and channel: one for each environment on one server",
    )
    password_file: Path | None = Field(default=None, description="the password, when it should not stand in the URL")
    replicas: int = Field(default=0, ge=0, le=16, description="how many replicas must confirm a commit")


class Sealing(Section):
    """What seals tokens in Redis."""

    keys_file: Path | None = Field(
        default=None,
        description="one key a line, the first seals, all open; with redis.url = embedded: one is made in data_dir",
    )


class Refresh(Section):
    """When and how hard we ask providers."""

    window: tuple[float, float] | None = Field(
        default=None,
        description="part of a token's life after which it is refreshed, drawn once per token; "
        "by default [0.70, 0.85], later where a refresh kills the old token",
    )
    request_timeout: Duration = Field(default=timedelta(seconds=10), description="one token request, connect included")
    min_interval: Duration = Field(default=timedelta(seconds=60), description="between two forced refreshes of a grant")
    lease: Duration = Field(
        default=timedelta(minutes=2), description="how long a replica may hold a grant for one request"
    )
    concurrency: int = Field(default=32, ge=1, le=1024, description="token requests in flight per provider and replica")
    import_spread: Duration = Field(
        default=timedelta(minutes=5), description="window over which imported grants fall due"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Refresh:
        if self.lease <= self.request_timeout + LEASE_MARGIN:
            msg = (
                f"lease ({self.lease.total_seconds():g}s) must be longer than request_timeout + "
                f"{LEASE_MARGIN.total_seconds():g}s ({(self.request_timeout + LEASE_MARGIN).total_seconds():g}s): "
                "raise lease or lower request_timeout"
            )
            raise ValueError(msg)
        if self.window is not None and not 0 < self.window[0] <= self.window[1] < 1:
            msg = "window is two parts of a token's life, 0 < first <= second < 1, such as [0.70, 0.85]"
            raise ValueError(msg)
        return self


class Provider(Section):
    """An authorization server seen through one client registration of ours.

    What is not given is filled in by the kind's dialect.
    """

    kind: Literal["cameramanager", "een-v3", "oauth2", "oidc"] = Field(description="fills in endpoints and dialect")
    client_id: str = Field(min_length=1, description="of our registration")
    client_secret_file: Path | None = Field(default=None, description="file with the client secret")
    client_secret: SecretStr | None = Field(default=None, description="the client secret itself; a file is better")
    scope: str | None = Field(default=None, description="requested at login, and on refresh where scope_on_refresh")
    issuer: WebUrl | None = Field(default=None, description="oidc: where discovery starts; else what `iss` must equal")
    authorization_endpoint: WebUrl | None = None
    token_endpoint: WebUrl | None = None
    revocation_endpoint: WebUrl | None = None
    logout_endpoint: WebUrl | None = Field(
        default=None, description="cameramanager: deleted with the live access token"
    )
    allow_http: bool = Field(default=False, description="endpoints on plain http beyond loopback")
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post", "none"] | None = None
    basic_encoding: Literal["form", "plain"] | None = Field(
        default=None, description="whether id and secret are form-encoded before Basic"
    )
    parameters: Literal["body", "query"] | None = Field(
        default=None, description="where the token request carries its parameters"
    )
    pkce: bool | None = Field(default=None, description="send code_challenge S256 at login")
    state: Literal["required", "optional"] | None = Field(
        default=None, description="optional: the cookie alone may bind the login when state does not come back"
    )
    redirect_uri_encoding: Literal["percent", "plain"] | None = None
    scope_on_refresh: bool | None = None
    authorization_params: dict[str, str] = Field(default={}, description="further parameters of the authorization URL")
    token_params: dict[str, str] = Field(default={}, description="further parameters of every token request")
    reuse_grace: Grace | None = Field(
        default=None, description='how long a spent refresh token may be presented again, or "forever"'
    )
    old_token: Literal["survives", "dies"] | None = Field(
        default=None, description="what a refresh does to the access token before it"
    )
    default_lifetime: Duration | None = Field(default=None, description="of an access token whose answer does not say")
    idle_limit: Duration | None = Field(default=None, description="a refresh token dies when unused for so long")
    absolute_limit: Duration | None = Field(default=None, description="a grant dies so long after its login")
    dead_statuses: list[int] | None = Field(
        default=None, description="HTTP statuses that mean a dead refresh token whatever the code"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Provider:
        if self.client_secret and self.client_secret_file:
            msg = "client_secret and client_secret_file are both given: keep client_secret_file"
            raise ValueError(msg)
        if self.kind == "oauth2" and not self.token_endpoint:
            msg = 'kind "oauth2" needs token_endpoint (and authorization_endpoint, to log in)'
            raise ValueError(msg)
        if self.kind == "oidc" and not self.issuer:
            msg = 'kind "oidc" needs issuer, exactly as its discovery document spells it'
            raise ValueError(msg)
        for name in ("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "logout_endpoint"):
            url = urlsplit(getattr(self, name) or "")
            if url.scheme == "http" and url.hostname not in LOOPBACK and not self.allow_http:
                msg = f"{name} is plain http beyond loopback: use https, or say allow_http = true"
                raise ValueError(msg)
        return self


class Caller(Section):
    """A service or person that asks us, known by its key."""

    key_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, hex")
    key_file: Path | None = Field(default=None, description="file with the key itself")
    read: list[Pattern] = Field(default=[], description="grant ids whose token it may read")
    refresh: list[Pattern] = Field(default=[], description="grant ids it may have refreshed")
    admin: list[Pattern] = Field(default=[], description="grant ids it may log in, import, list and delete")

    @model_validator(mode="after")
    def _one_key(self) -> Caller:
        if (self.key_sha256 is None) == (self.key_file is None):
            msg = "give key_sha256 or key_file, one of them (`token-broker caller new NAME` makes both)"
            raise ValueError(msg)
        return self


class Cache(Section):
    """What a replica keeps in memory."""

    warm: list[Pattern] = Field(default=[], description="grant ids loaded at start")
    max_entries: int = Field(default=100_000, ge=1, description="tokens kept in memory at most")


class PubSub(Section):
    """What is published."""

    publish: Literal["token", "notice"] = Field(default="token", description="notice: without the token inside")


class Log(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: text on a terminal, else JSON")


def _named(kind: str) -> AfterValidator:
    def check(table: dict[str, object]) -> dict[str, object]:
        for name in table:
            if not GRANT_ID.fullmatch(name):
                msg = f"{name!r} is not a {kind}'s name: letters, digits, '.', '_' and '-', at most 128"
                raise ValueError(msg)
        return table

    return AfterValidator(check)


class Settings(BaseSettings):
    """Everything a broker is told. Read it with `settings_source.load`."""

    model_config = SettingsConfigDict(
        env_prefix="TOKEN_BROKER_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(
        default=Path("/var/lib/token-broker"), description="journal, embedded store, generated keys (0700)"
    )
    http: Http = Http()
    redis: Redis
    sealing: Sealing = Sealing()
    refresh: Refresh = Refresh()
    cache: Cache = Cache()
    pubsub: PubSub = PubSub()
    log: Log = Log()
    providers: Annotated[dict[str, Provider], _named("provider")] = {}
    callers: Annotated[dict[str, Caller], _named("caller")] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.sealing.keys_file is None and not self.redis.url.startswith("embedded:"):
            msg = (
                "sealing.keys_file is missing beside an external Redis: run `token-broker keys new > FILE` "
                "and name the file"
            )
            raise ValueError(msg)
        for address in (*self.http.listen, *self.http.public_listen):
            host = address.rpartition(":")[0].strip("[]")
            if not address.startswith("unix:") and host not in LOOPBACK and not self.http.allow_plain_http:
                msg = (
                    f"http.listen {address} is plain http beyond loopback: put TLS in front and say "
                    "http.allow_plain_http = true"
                )
                raise ValueError(msg)
        return self

    @property
    def redirect_uri(self) -> str:
        """Where providers send the browser back (RFC 6749 §3.1.2)."""
        return self.http.public_url.rstrip("/") + "/callback"
