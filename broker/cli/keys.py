"""`keys new`, `keys reseal`, `caller new` and `init`: keys, and the settings to begin with."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn

from broker.cli.http import broker_at, run
from broker.cli.main import EXIT_FAILURE, app, err, out
from broker.cli.options import Config, Json, KeyFile, Url
from broker.secret import key_digest, new_caller_key, new_sealing_key
from broker.settings import Caller
from broker.settings.values import Name

keys = typer.Typer(help="Sealing keys.", no_args_is_help=True)
callers = typer.Typer(help="Callers: services and persons that ask the broker.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(callers, name="caller")


@keys.command("new")
def new_key() -> None:
    """Print a new sealing key, alone on the last line. It opens every stored token: keep it like one."""
    err.print("# a sealing key: put it into sealing.keys_file (mode 0600), first line seals, all lines open")
    typer.echo(new_sealing_key())


@keys.command("reseal")
def reseal(as_json: Json = False, config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Have the running broker seal all that is stored with the first key, so that the others may go.

    May be broken off and begun again at any time. Exit 1: the other keys are still needed, and why.
    """

    async def work() -> dict[str, Any]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"))
        told: dict[str, Any] = {"next": None}
        grants = logins = seen = 0
        quiet = as_json or not err.is_terminal
        async with broker_at(config, url, key_file) as broker:
            with Progress(*columns, console=err, disable=quiet, transient=True) as progress:
                bar = progress.add_task("resealing", total=None)
                while True:
                    body = {"cursor": told["next"]} if told["next"] else {}
                    told = await broker.get("POST", "/v1/sealing/reseal", json=body)
                    grants, logins = grants + told["grants_resealed"], logins + told["logins_resealed"]
                    seen += told["grants"]
                    progress.update(bar, description=f"pass {told['pass']}: {seen} grants seen, {grants} resealed")
                    if told["next"] is None:
                        return {**told, "grants_resealed": grants, "logins_resealed": logins}

    told = run(work())
    if as_json:
        typer.echo(json.dumps(told))
    else:
        out.print(f"{told['grants_resealed']} grants and {told['logins_resealed']} pending logins resealed.")
        out.print(f"{told['detail'][:1].upper()}{told['detail'][1:]}.", markup=False)
    if not told["old_keys_may_go"]:
        raise typer.Exit(EXIT_FAILURE)


@callers.command("new")
def new_caller(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is, such as video-wall.")],
    read: Annotated[list[str] | None, typer.Option(help="Pattern of grant ids it may read; may be repeated.")] = None,
    refresh: Annotated[list[str] | None, typer.Option(help="Pattern it may have refreshed.")] = None,
    admin: Annotated[list[str] | None, typer.Option(help="Pattern it may log in, import and delete.")] = None,
) -> None:
    """Make a caller's key: shown once, with the lines for the settings."""
    key = new_caller_key()
    rights = {"read": read or [], "refresh": refresh or [], "admin": admin or []}
    try:
        TypeAdapter(dict[Name, Caller]).validate_python({name: {"key_sha256": key_digest(key)} | rights})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = "NAME" if found["loc"][-1] == "[key]" else f"--{found['loc'][1]}"
        raise typer.BadParameter(f"{where} {found.get('ctx', {}).get('error', 'is wrong')}") from None
    out.print("# for the settings:", markup=False)
    out.print(f"[callers.{name if '.' not in name else json.dumps(name)}]", markup=False)
    out.print(f'key_sha256 = "{key_digest(key)}"', markup=False)
    for right, patterns in rights.items():
        hint = "" if any(rights.values()) else f"  # {_HINTS[right]}"
        out.print(f"{right} = {json.dumps(patterns)}{hint}", markup=False)
    err.print("# for the caller, shown only now:")
    typer.echo(key)


_HINTS = {
    "read": 'grant ids whose token it may read, such as "acme-*"',
    "refresh": "grant ids it may have refreshed",
    "admin": "grant ids it may log in, import and delete",
}
_PROVIDERS = {
    "cameramanager": """[providers.cameramanager]
kind = "cameramanager"                      # Eagle Eye Networks CameraManager: endpoints and dialect are filled in
client_id = "…"                             # of your API key
client_secret_file = "client_secret"        # file with its secret, mode 0600
# scope = "write"                           # or "read"
""",
    "een-v3": """[providers.een]
kind = "een-v3"                             # Eagle Eye Networks API V3
client_id = "…"
client_secret_file = "client_secret"        # file with its secret, mode 0600
""",
    "oidc": """[providers.acme]
kind = "oidc"                               # any OpenID Connect issuer
issuer = "https://…"                        # exactly as its discovery document spells it
client_id = "…"
client_secret_file = "client_secret"        # file with its secret, mode 0600
# scope = "openid offline_access"
""",
    "oauth2": """[providers.acme]
kind = "oauth2"                             # any RFC 6749 server
authorization_endpoint = "https://…"
token_endpoint = "https://…"
# revocation_endpoint = "https://…"
client_id = "…"
client_secret_file = "client_secret"        # file with its secret, mode 0600
# scope = "…"
""",
}
_FILE = """# Settings of token-broker. What is commented out shows its default; durations carry their unit.
# Environment wins: TOKEN_BROKER_REDIS__URL is redis.url. Relative paths begin where token-broker is started.

data_dir = "./data"                         # journal, embedded store, generated keys; made with mode 0700

[http]
listen = ["127.0.0.1:8080"]                 # also "[::1]:8080" or "unix:/run/token-broker/http.sock"
public_url = "http://127.0.0.1:8080"        # as a browser sees us: register public_url + "/callback" at the provider
# public_listen = []                        # further addresses for /login and /callback alone: the internet's side
# allow_plain_http = false                  # needed to listen beyond loopback; put TLS in front
# drain_delay = "3s"                        # on SIGTERM keep serving so long
# max_connections = 0                       # callers' connections at once; 0: what the limit of open files leaves
# keepalive_timeout = "75s"                 # more than your balancer's idle timeout
# read_timeout = "30s"                      # a client may keep silent so long within a request
# reuse_port = false                        # several brokers on one host share a port
# socket_mode = "0660"                      # of a unix: socket

[redis]
url = "embedded:"                           # one in data_dir; or redis:// rediss:// unix://
# namespace = "broker"                      # in front of every key and channel: one for each environment on a server
# password_file = "redis_password"          # instead of a password in the URL
# replicas = 0                              # how many replicas must confirm a commit

# [sealing]                                 # needed beside an external Redis; embedded: makes its own
# keys_file = "sealing.keys"                # token-broker keys new > sealing.keys

# [refresh]
# window = [0.70, 0.85]                     # part of a token's life after which it is refreshed
# request_timeout = "10s"
# min_interval = "60s"                      # between two forced refreshes of a grant
# report_budget = 12                        # forced refreshes of a grant within an hour, after reports of a 401
# lease = "2m"                              # more than request_timeout + 5s
# concurrency = 32                          # token requests in flight per provider
# journal = true                            # each answer to data_dir before Redis; false: Redis alone may lose a grant
# import_spread = "5m"                      # imported grants fall due within it

# [cache]
# warm = []                                 # patterns of grant ids loaded at start
# max_entries = 100000                      # tokens kept in memory

# [pubsub]
# publish = "token"                         # or "notice": events without the token inside

# [notify]                                  # tell a person: by webhook, by command, or both
# webhook = "https://…"                     # each notice is POSTed there
# secret_file = "webhook_secret"            # signs each POST: whsec_ and 32 random bytes in base64
# command = []                              # such as ["/usr/local/bin/page-someone"]: JSON on its standard input
# events = ["reauthorization_required", "reauthorize_soon", "refresh_failing", "provider_suspended", "recovered"]
# timeout = "10s"                           # one POST, one run of the command
# allow_http = false                        # webhook on plain http beyond loopback

# [metrics]
# max_grants = 1000                         # shown one by one, the soonest due; counts are of all

# [log]
# level = "info"                            # debug, info, warning or error
# format = "auto"                           # text on a terminal, else json

"""
_CALLERS = """
# [callers.video-wall]                      # `token-broker caller new video-wall --read 'acme-*'` prints such a table
# key_sha256 = "…"
# read = ["acme-*"]
# refresh = ["acme-*"]
# admin = []
# Without any caller the first start makes an admin key in data_dir (admin.key).
"""


@app.command()
def init(
    provider: Annotated[
        Literal["cameramanager", "een-v3", "oidc", "oauth2"], typer.Option(help="Kind of provider to begin with.")
    ] = "cameramanager",
) -> None:
    """Print a commented settings file: token-broker init > broker.toml."""
    typer.echo(_FILE + _PROVIDERS[provider] + _CALLERS, nl=False)
