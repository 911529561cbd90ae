"""`keys new`, `caller new` and `init`: what needs neither settings nor a running broker."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from broker.cli.main import app, err, out
from broker.errors import CorrectRequest
from broker.model import GRANT_ID
from broker.secret import key_digest, new_caller_key, new_sealing_key

keys = typer.Typer(help="Sealing keys.", no_args_is_help=True)
callers = typer.Typer(help="Callers: services and persons that ask the broker.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(callers, name="caller")


@keys.command("new")
def new_key() -> None:
    """Print a new sealing key, alone on the last line. It opens every stored token: keep it like one."""
    err.print("# a sealing key: put it into sealing.keys_file (mode 0600), first line seals, all lines open")
    typer.echo(new_sealing_key())


@callers.command("new")
def new_caller(
    name: Annotated[str, typer.Argument(help="Who it is, such as video-wall.")],
    read: Annotated[list[str] | None, typer.Option(help="Pattern of grant ids it may read; may be repeated.")] = None,
    refresh: Annotated[list[str] | None, typer.Option(help="Pattern it may have refreshed.")] = None,
    admin: Annotated[list[str] | None, typer.Option(help="Pattern it may log in, import and delete.")] = None,
) -> None:
    """Make a caller's key: shown once, with the lines for the settings."""
    if not GRANT_ID.fullmatch(name):
        raise CorrectRequest(f"{name!r} is not a caller's name: letters, digits, '.', '_' and '-', at most 128")
    key = new_caller_key()
    table = f'"{name}"' if "." in name else name
    out.print("# for the settings:", markup=False)
    out.print(f"[callers.{table}]", markup=False)
    out.print(f'key_sha256 = "{key_digest(key)}"', markup=False)
    for right, patterns in (("read", read), ("refresh", refresh), ("admin", admin)):
        listed = ", ".join(f'"{pattern}"' for pattern in patterns or ())
        out.print(f"{right} = [{listed}]", markup=False)
    err.print("# for the caller, shown only now:")
    typer.echo(key)


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
_FILE = """# Settings of token-broker. Every key has a default unless it is set here; durations carry their unit.
# Environment wins: TOKEN_BROKER_REDIS__URL is redis.url.

data_dir = "./data"                         # journal, embedded store, generated keys; made with mode 0700

[http]
listen = ["127.0.0.1:8080"]                 # also "[::1]:8080" or "unix:/run/token-broker/http.sock"
public_url = "http://127.0.0.1:8080"        # as a browser sees us: register public_url + "/callback" at the provider
# drain_delay = "3s"                        # on SIGTERM keep serving so long

[redis]
url = "embedded:"                           # one in data_dir; or redis:// rediss:// unix://
# namespace = "broker"                      # in front of every key and channel

# [sealing]                                 # needed beside an external Redis; embedded: makes its own
# keys_file = "sealing.keys"                # token-broker keys new > sealing.keys

# [refresh]
# window = [0.70, 0.85]                     # part of a token's life after which it is refreshed
# request_timeout = "10s"
# min_interval = "60s"                      # between two forced refreshes of a grant
# lease = "2m"
# concurrency = 32                          # token requests in flight per provider

"""
_CALLERS = """
# [callers.video-wall]                      # `token-broker caller new video-wall --read 'acme-*'` prints such a table
# key_sha256 = "…"
# read = ["acme-*"]
# refresh = ["acme-*"]
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
