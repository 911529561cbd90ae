"""The settings: one TOML file, the environment over it, secrets from files.

Owns their schema, defaults, descriptions and cross-checks, and does not know what they are used for. `values`
holds the types of values, `provider` the settings of one provider, `environment` reads the environment,
`file` reads the file and words the errors. Every check belongs to one key, so that one reading finds every
mistake. The commented file of `token-broker init` and the reference of the settings show the descriptions.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from broker.errors import InvalidSettings
from broker.model import NoticeEvent
from broker.settings.audit import Audit
from broker.settings.caller import Caller
from broker.settings.channels import ChannelName, NoticeChannel
from broker.settings.environment import Environment
from broker.settings.http import Http
from broker.settings.outgoing import CredentialsFile, Outgoing, OwnProxy
from broker.settings.provider import Provider
from broker.settings.sentinels import SentinelFile, SentinelUser
from broker.settings.values import (
    Duration,
    Name,
    Pattern,
    PositiveDuration,
    RedisUrl,
    Section,
    WebUrl,
    Window,
    matching,
    plain_beyond_loopback,
)

__all__ = [
    "LEASE_MARGIN",
    "Audit",
    "Cache",
    "Caller",
    "Http",
    "Log",
    "Metrics",
    "Notify",
    "Outgoing",
    "Provider",
    "PubSub",
    "Redis",
    "Refresh",
    "Sealing",
    "Settings",
]

LEASE_MARGIN = timedelta(seconds=5)
"""Time between the end of a token request and the end of its lease: for journal, commit and slow clocks."""


class Redis(Section):
    """Where the broker keeps grants."""

    url: RedisUrl = Field(
        description="where Redis is: redis:// rediss:// unix:// redis+sentinel:// redis+cluster://, or embedded: for a "
        "server in data_dir"
    )
    namespace: Annotated[str, matching("[A-Za-z0-9._-]{1,64}", "must be 1 to 64 letters, digits, '.', '_' and '-'")] = (
        Field(
            default="broker",
            description="prefix of every key and channel; each environment on one server needs its own",
        )
    )
    password_file: Path | None = Field(
        default=None, examples=["redis_password"], description="file with the password, to keep it out of the URL"
    )
    allow_plain: bool = Field(
        default=False, description="confirm that redis.url may use plain TCP beyond this host; `check` warns otherwise"
    )
    sentinel_password_file: SentinelFile = None
    sentinel_username: SentinelUser = None
    replicas: int = Field(default=0, ge=0, le=16, description="how many replicas must confirm a commit")


class Sealing(Section):
    """Keys that seal the tokens in Redis."""

    keys_file: Path | None = Field(
        default=None,
        examples=["sealing.keys"],
        description="file with one key a line (`token-broker keys new` prints one): the first seals, all open; beside "
        "an embedded store the broker makes one in data_dir",
    )


class Refresh(Section):
    """When the broker refreshes tokens, and how many requests it sends at once."""

    window: Window | None = Field(
        default=None,
        examples=[[0.70, 0.85]],
        description="a token is refreshed after a random part of its life between these two numbers; by default "
        "[0.70, 0.85], later where a refresh invalidates the old token",
    )
    request_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="time limit of one token request, connecting included"
    )
    min_interval: Duration = Field(
        default=timedelta(seconds=60), description="shortest time between two forced refreshes of a grant"
    )
    report_budget: int = Field(
        default=12,
        ge=1,
        description="forced refreshes of a grant within an hour, for reports of a 401 and for min_ttl together",
    )
    lease: Duration = Field(
        default=timedelta(minutes=2),
        description="how long a broker may hold a grant for one request; longer than request_timeout + 5s",
    )
    concurrency: int = Field(
        default=32, ge=1, le=1024, description="token requests in flight per provider and broker, at most"
    )
    journal: bool = Field(
        default=True,
        description="write each token response to data_dir before Redis; if false, a failure of Redis alone can lose a "
        "grant",
    )
    import_spread: Duration = Field(
        default=timedelta(minutes=5), description="time over which the first refreshes of imported grants are spread"
    )

    @field_validator("lease")
    @classmethod
    def _outlives_a_request(cls, lease: timedelta, info: ValidationInfo) -> timedelta:
        timeout = info.data.get("request_timeout")
        if timeout is not None and lease <= timeout + LEASE_MARGIN:
            raise ValueError(
                f"({lease.total_seconds():g}s) must be longer than refresh.request_timeout + "
                f"{LEASE_MARGIN.total_seconds():g}s ({(timeout + LEASE_MARGIN).total_seconds():g}s): "
                "raise lease or lower request_timeout"
            )
        return lease


class Cache(Section):
    """What this broker keeps in memory."""

    warm: list[Pattern] = Field(default=[], description="patterns of grant ids whose tokens are loaded at start")
    max_entries: int = Field(default=100_000, ge=1, description="tokens in memory, at most")


class PubSub(Section):
    """What the broker publishes on Redis channels."""

    publish: Literal["token", "notice"] = Field(
        default="token", description="content of messages; notice: without the access token"
    )


class Notify(Section):
    """How the broker notifies people that they must act."""

    allow_http: bool = Field(default=False, description="confirm that the webhook may use plain HTTP beyond loopback")
    webhook: WebUrl | None = Field(
        default=None, examples=["https://…"], description="URL that receives each notice by POST"
    )
    secret_file: Path | None = Field(
        default=None,
        examples=["webhook_secret"],
        description="file with the secret (whsec_ and 32 random bytes in base64) that signs each POST as in Standard "
        "Webhooks",
    )
    command: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="program and arguments to run for each notice, which it reads as JSON from standard input",
    )
    events: list[NoticeEvent] = Field(default=list(get_args(NoticeEvent)), description="events that cause a notice")
    timeout: Annotated[PositiveDuration, Field(le=timedelta(minutes=5))] = Field(
        default=timedelta(seconds=10), description="time limit of one POST or one run of the command"
    )
    proxy: OwnProxy = None
    proxy_credentials_file: CredentialsFile = None
    channels: dict[ChannelName, NoticeChannel] = Field(
        default={},
        examples=[{"team": {"kind": "slack", "url_file": "slack_url"}}],
        description="services that get notices, by names of your own",
    )

    @field_validator("webhook")
    @classmethod
    def _plain_on_loopback(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and plain_beyond_loopback(url) and info.data.get("allow_http") is False:
            raise ValueError("uses plain HTTP beyond loopback: use https, or set notify.allow_http = true")
        return url

    @field_validator("secret_file")
    @classmethod
    def _signs_something(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and info.data.get("webhook", "") is None:
            raise ValueError("needs notify.webhook, whose requests it signs: set that too, or remove this")
        return file


class Metrics(Section):
    """What /metrics shows."""

    max_grants: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="how many grants /metrics shows by id, the soonest due first; /metrics needs no key; totals "
        "count all grants",
    )


class Log(Section):
    """What the broker logs to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level of the events to log; SIGHUP rereads it"
    )
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="format of log lines; auto: text on a terminal, else JSON"
    )


class Settings(Section, BaseSettings):
    """All settings of a broker. `broker.settings.file.load` reads them."""

    model_config = SettingsConfigDict(case_sensitive=True)

    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path("/var/lib/token-broker"),
        description="directory (mode 0700) for the journal, the embedded store and generated keys",
    )
    include: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        examples=[["providers.d/*.toml"]],
        description="patterns of further files, relative to this one, that hold [providers.NAME] tables only",
    )
    http: Http = Field(default=Http(), description="where callers and browsers reach this broker")
    redis: Redis = Field(description="where the broker keeps grants")
    sealing: Sealing = Field(
        default=Sealing(), description="keys that seal the tokens in Redis; required unless redis.url is embedded:"
    )
    refresh: Refresh = Field(
        default=Refresh(), description="when the broker refreshes tokens, and how many requests it sends at once"
    )
    outgoing: Outgoing = Field(default=Outgoing(), description="how to reach providers and the receiver of notices")
    cache: Cache = Field(default=Cache(), description="what this broker keeps in memory")
    pubsub: PubSub = Field(default=PubSub(), description="what the broker publishes on Redis channels")
    notify: Notify = Field(default=Notify(), description="notify people by webhook, by command, or both")
    metrics: Metrics = Field(default=Metrics(), description="what /metrics shows")
    log: Log = Field(default=Log(), description="what the broker logs to standard error")
    audit: Audit = Field(default=Audit(), description="who did what to which grant, one JSON line an event")
    providers: dict[Name, Provider] = Field(
        default={}, description="authorization servers, each with this broker's client registration there"
    )
    callers: dict[Name, Caller] = Field(
        default={},
        description="services and persons that ask the broker; with none, the first start makes an admin key in "
        "data_dir (admin.key)",
    )

    @field_validator("sealing")
    @classmethod
    def _sealed_beside_redis(cls, sealing: Sealing, info: ValidationInfo) -> Sealing:
        redis = info.data.get("redis")
        if sealing.keys_file is None and redis is not None and redis.url != "embedded:":
            raise ValueError(
                "keys_file is missing, and Redis is not embedded: run `token-broker keys new --to sealing.keys` "
                'and set keys_file = "sealing.keys" below [sealing]'
            )
        return sealing

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_unused: PydanticBaseSettingsSource,
        **_by_name: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let arguments override the environment, and it the file; `broker.settings.file.load` reads these two."""
        given = dict(init_settings())
        environment = given.pop("_environment", None)
        if environment is None:
            environment = Environment(settings_cls, given)
            if environment.findings:
                raise InvalidSettings(*environment.findings)
        return InitSettingsSource(settings_cls, given), *environment.sources

    @property
    def redirect_uri(self) -> str:
        """URL to which providers send the browser back (RFC 6749 §3.1.2)."""
        return self.http.public_url.rstrip("/") + "/callback"

    def redirect_uri_of(self, name: str) -> str:
        """Return the URL to which the provider *name* sends the browser back: what is registered there."""
        return f"{self.redirect_uri}/{name}" if self.providers[name].redirect_path == "provider" else self.redirect_uri

    @property
    def status_page_url(self) -> str | None:
        """URL of the status page; None where `public_url` serves logins only."""
        return None if self.http.public_listen else self.http.public_url.rstrip("/")
