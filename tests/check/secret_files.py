"""Settings that name a secret file of each kind."""

from __future__ import annotations

from pathlib import Path

from broker.secret import new_sealing_key
from tests.cli.conftest import Home


def with_secrets(home: Home) -> dict[str, Path]:
    """Write settings that name a file of each kind, all good and private."""
    contents = {
        "sealing": new_sealing_key(),
        "password": "pw",
        "client": "a-client-secret",
        "header": "an-api-key",
        "caller": "a-caller-key-0123456-0123456789-0123456789",
        "notify": "whsec_" + "QUFB" * 10,
        "proxy": "a-user:a-pass-word",
    }
    paths = {name: home.directory / f"{name}.secret" for name in contents}
    for name, path in paths.items():
        path.write_text(contents[name] + "\n")
        path.chmod(0o600)
    home.settings.write_text(
        f'data_dir = "{home.data}"\n[redis]\nurl = "redis://127.0.0.1/0"\npassword_file = "{paths["password"]}"\n'
        f'[sealing]\nkeys_file = "{paths["sealing"]}"\n[providers.acme]\nkind = "oauth2"\nclient_id = "x"\n'
        f'issuer = "https://as.test"\nclient_secret_file = "{paths["client"]}"\ntoken_endpoint = "https://as.test/token"\n'
        f'headers = {{ "api-key" = {{ file = "{paths["header"]}" }} }}\n'
        f'[callers.wall]\nkey_file = "{paths["caller"]}"\n[notify]\nsecret_file = "{paths["notify"]}"\n'
        'webhook = "https://hooks.test/x"\n'
        f'[outgoing]\nproxy = "http://proxy.test:3128"\nproxy_credentials_file = "{paths["proxy"]}"\n'
    )
    return paths


KEYS = {
    "sealing": "sealing.keys_file",
    "password": "redis.password_file",
    "client": "providers.acme.client_secret_file",
    "header": "providers.acme.headers.api-key.file",
    "caller": "callers.wall.key_file",
    "notify": "notify.secret_file",
    "proxy": "outgoing.proxy_credentials_file",
}
