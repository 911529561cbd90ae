"""The settings: one TOML file, the environment over it, secrets from files.

Owns their schema, defaults and cross-checks, and nothing of what they are used for. `values` has the kinds
of values, `environment` reads the environment, `file` the file, and words the errors. Every check
belongs to one key, so that one reading finds all that is wrong.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from broker.errors import InvalidSettings
from broker.model import NoticeEvent
from broker.settings.environment import Environment
from broker.settings.values import (
    LOOPBACK,
    Duration,
    Grace,
    Listen,
    Name,
    Pattern,
    PositiveDuration,
    RedisUrl,
    WebUrl,
    Window,
    host_of,
    matching,
    plain_beyond_loopback,
)

LEASE_MARGIN = timedelta(seconds=5)
"""Room between the end of a token request and the end of its lease: journal, commit, and slow clocks."""


class Section(BaseModel):
    """A table of the settings file: unknown keys are errors, and nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)


class Http(Section):
    """Where callers and browsers reach us."""

    allow_plain_http: bool = Field(
        default=False, description="listen beyond loopback without TLS in front: the word that says you know"
    )
    listen: list[Listen] = Field(
        default=["127.0.0.1:8080"],
        min_length=1,
        description="addresses to listen on; [::] is IPv6 alone, for both say 0.0.0.0 too",
    )
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
    max_connections: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="callers' connections at once, 0: as many as the limit of open files leaves room for; never more",
    )
    keepalive_timeout: PositiveDuration = Field(
        default=timedelta(seconds=75),
        description="how long an idle connection is kept: longer than balancers keep theirs, so that they close first",
    )
    read_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30),
        description="how long a client may keep silent before its first request, within one, or in taking an answer",
    )
    reuse_port: bool = Field(
        default=False, description="several brokers on one host share the port of http.listen (SO_REUSEPORT)"
    )
    socket_mode: Annotated[str, matching("0?[0-7]{3}", 'must be three octal digits in quotes, such as "0660"')] = Field(
        default="0660", description="mode of a unix: socket"
    )

    @field_validator("listen", "public_listen")
    @classmethod
    def _plain_on_loopback(cls, addresses: list[str], info: ValidationInfo) -> list[str]:
        beyond = [a for a in addresses if (host := host_of(a)) is not None and host not in LOOPBACK]
        if beyond and info.data.get("allow_plain_http") is False:
            raise ValueError(
                f"{beyond[0]} is plain http beyond loopback: put TLS in front and say http.allow_plain_http = true"
            )
        return addresses

    @field_validator("public_url")
    @classmethod
    def _takes_a_path(cls, url: str, info: ValidationInfo) -> str:
        if "?" in url:
            raise ValueError('must have no query: the redirect_uri is public_url + "/callback"')
        if plain_beyond_loopback(url) and info.data.get("allow_plain_http") is False:
            raise ValueError("is plain http beyond loopback: use https, or say http.allow_plain_http = true")
        return url


class Redis(Section):
    """Where grants are kept."""

    url: RedisUrl = Field(description="redis:// rediss:// unix:// redis+sentinel:// redis+cluster:// or embedded:")
    namespace: Annotated[str, matching("[A-Za-z0-9._-]{1,64}", "must be 1 to 64 letters, digits, '.', '_' and '-'")] = (
        Field(
            default="broker",
            description="in front of every key and channel: one for each environment on one server",
        )
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

    window: Window | None = Field(
        default=None,
        description="part of a token's life after which it is refreshed, drawn once per token; "
        "by default [0.70, 0.85], later where a refresh kills the old token",
    )
    request_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="one token request, connect included"
    )
    min_interval: Duration = Field(default=timedelta(seconds=60), description="between two forced refreshes of a grant")
    report_budget: int = Field(
        default=12, ge=1, description="forced refreshes of a grant within an hour, after reports of a 401"
    )
    lease: Duration = Field(
        default=timedelta(minutes=2), description="how long a broker may hold a grant for one request"
    )
    concurrency: int = Field(default=32, ge=1, le=1024, description="token requests in flight per provider and broker")
    journal: bool = Field(
        default=True, description="write each answer to data_dir before Redis; false: Redis alone may lose a grant"
    )
    import_spread: Duration = Field(
        default=timedelta(minutes=5), description="window over which imported grants fall due"
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


class Provider(Section):
    """An authorization server seen through one client registration of ours.

    What is not given is filled in by the kind's dialect.
    """

    kind: Literal["cameramanager", "een-v3", "oauth2", "oidc"] = Field(description="fills in endpoints and dialect")
    client_id: str = Field(min_length=1, description="of our registration")
    client_secret_file: Path | None = Field(default=None, description="file with the client secret")
    client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="the client secret itself; a file is better"
    )
    scope: str | None = Field(default=None, description="requested at login, and on refresh where scope_on_refresh")
    allow_http: bool = Field(default=False, description="endpoints on plain http beyond loopback")
    issuer: WebUrl | None = Field(default=None, description="oidc: where discovery starts; else what `iss` must equal")
    authorization_endpoint: WebUrl | None = None
    token_endpoint: WebUrl | None = None
    revocation_endpoint: WebUrl | None = None
    logout_endpoint: WebUrl | None = Field(
        default=None, description="cameramanager: deleted with the live access token"
    )
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
    default_lifetime: PositiveDuration | None = Field(
        default=None, description="of an access token whose answer does not say"
    )
    idle_limit: PositiveDuration | None = Field(
        default=None, description="a refresh token dies when unused for so long"
    )
    absolute_limit: PositiveDuration | None = Field(default=None, description="a grant dies so long after its login")
    dead_statuses: list[Annotated[int, Field(ge=400, le=599)]] | None = Field(
        default=None, description="HTTP statuses that mean a dead refresh token whatever the code"
    )

    @field_validator("client_secret")
    @classmethod
    def _one_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None and info.data.get("client_secret_file") is not None:
            raise ValueError("stands beside client_secret_file: keep that one, and delete client_secret")
        return secret

    @field_validator("token_endpoint")
    @classmethod
    def _needed_by_oauth2(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("kind") == "oauth2":
            raise ValueError('is missing: kind "oauth2" needs it (and authorization_endpoint, to log in)')
        return url

    @field_validator("issuer")
    @classmethod
    def _needed_by_oidc(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("kind") == "oidc":
            raise ValueError('is missing: kind "oidc" needs it, exactly as the discovery document spells it')
        return url

    @field_validator("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "logout_endpoint")
    @classmethod
    def _plain_on_loopback(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and plain_beyond_loopback(url) and info.data.get("allow_http") is False:
            raise ValueError("is plain http beyond loopback: use https, or say allow_http = true for this provider")
        return url


class Caller(Section):
    """A service or person that asks us, known by its key."""

    key_sha256: (
        Annotated[str, matching("[0-9a-f]{64}", "must be the 64 hex digits that `token-broker caller new NAME` prints")]
        | None
    ) = Field(default=None, description="SHA-256 of the key, hex")
    key_file: Path | None = Field(default=None, description="file with the key itself")
    read: list[Pattern] = Field(default=[], description="grant ids whose token it may read")
    refresh: list[Pattern] = Field(default=[], description="grant ids it may have refreshed")
    admin: list[Pattern] = Field(default=[], description="grant ids it may log in, import, list and delete")

    @field_validator("key_file")
    @classmethod
    def _one_key(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if "key_sha256" not in info.data:  # wrong, and said so
            return file
        if file is None and info.data["key_sha256"] is None:
            raise ValueError(
                "is missing, and key_sha256 too: give one of them (`token-broker caller new NAME` prints the lines)"
            )
        if file is not None and info.data["key_sha256"] is not None:
            raise ValueError("stands beside key_sha256: keep one of them")
        return file


class Cache(Section):
    """What a replica keeps in memory."""

    warm: list[Pattern] = Field(default=[], description="grant ids loaded at start")
    max_entries: int = Field(default=100_000, ge=1, description="tokens kept in memory at most")


class PubSub(Section):
    """What is published."""

    publish: Literal["token", "notice"] = Field(default="token", description="notice: without the token inside")


class Notify(Section):
    """Whom we tell when a person must act."""

    allow_http: bool = Field(default=False, description="webhook on plain http beyond loopback")
    webhook: WebUrl | None = Field(default=None, description="POST each notice there")
    secret_file: Path | None = Field(
        default=None, description="file with the secret (whsec_…) that signs each POST, as in Standard Webhooks"
    )
    command: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="program and arguments to run for each notice: JSON on its standard input"
    )
    events: list[NoticeEvent] = Field(default=list(get_args(NoticeEvent)), description="what to tell of")
    timeout: Annotated[PositiveDuration, Field(le=timedelta(minutes=5))] = Field(
        default=timedelta(seconds=10), description="one POST, or one run of the command"
    )

    @field_validator("webhook")
    @classmethod
    def _plain_on_loopback(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and plain_beyond_loopback(url) and info.data.get("allow_http") is False:
            raise ValueError("is plain http beyond loopback: use https, or say notify.allow_http = true")
        return url

    @field_validator("secret_file")
    @classmethod
    def _signs_something(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and info.data.get("webhook", "") is None:
            raise ValueError("signs what goes to notify.webhook, and there is none: give that too, or drop this")
        return file


class Metrics(Section):
    """What /metrics shows."""

    max_grants: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="grants shown one by one, by id and without a key: the soonest due; counts are of all",
    )


class Log(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: text on a terminal, else JSON")


class Settings(Section, BaseSettings):
    """Everything a broker is told. Read it with `broker.settings.file.load`."""

    model_config = SettingsConfigDict(case_sensitive=True)

    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path("/var/lib/token-broker"), description="journal, embedded store, generated keys (0700)"
    )
    http: Http = Http()
    redis: Redis
    sealing: Sealing = Sealing()
    refresh: Refresh = Refresh()
    cache: Cache = Cache()
    pubsub: PubSub = PubSub()
    notify: Notify = Notify()
    metrics: Metrics = Metrics()
    log: Log = Log()
    providers: dict[Name, Provider] = {}
    callers: dict[Name, Caller] = {}

    @field_validator("sealing")
    @classmethod
    def _sealed_beside_redis(cls, sealing: Sealing, info: ValidationInfo) -> Sealing:
        redis = info.data.get("redis")
        if sealing.keys_file is None and redis is not None and redis.url != "embedded:":
            raise ValueError(
                "keys_file is missing, and Redis is not embedded: run `token-broker keys new > sealing.keys` "
                'and say keys_file = "sealing.keys" below [sealing]'
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
        """What is given, over the environment, over the file; `broker.settings.file.load` gives the latter two."""
        given = dict(init_settings())
        environment = given.pop("_environment", None)
        if environment is None:
            environment = Environment(settings_cls, given)
            if environment.findings:
                raise InvalidSettings(*environment.findings)
        return InitSettingsSource(settings_cls, given), *environment.sources

    @property
    def redirect_uri(self) -> str:
        """Where providers send the browser back (RFC 6749 §3.1.2)."""
        return self.http.public_url.rstrip("/") + "/callback"

    @property
    def status_page_url(self) -> str | None:
        """Where a browser finds the status page; None where `public_url` serves logins alone."""
        return None if self.http.public_listen else self.http.public_url.rstrip("/")
