"""What a login needs so that a refresh token comes of it (OpenID Connect Core §11), and why none came. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.providers import redaction

if TYPE_CHECKING:
    from broker.providers.dialects import Dialect

OFFLINE = "offline_access"
_ELSEWHERE = (
    'the scope is probably missing (often "offline_access"; Google wants '
    'authorization_params = { access_type = "offline", prompt = "consent" })'
)


def consent_prompt(dialect: Dialect) -> dict[str, str]:
    """Return `prompt=consent` where the scope holds `offline_access`.

    Without it a server must ignore that scope, unless it has other conditions (OpenID Connect Core §11). `prompt` in
    `authorization_params` replaces it; "" drops it.
    """
    wanted = OFFLINE in _scopes(dialect.scope) and "prompt" not in dialect.authorization_params
    return {"prompt": "consent"} if wanted else {}


def why_no_refresh_token(dialect: Dialect, granted: str | None) -> str:
    """Say which scope a login without a refresh token was granted, which was dropped, and what to set.

    Args:
        dialect: what was requested.
        granted: `scope` of the answer; None: all that was requested (RFC 6749 §3.3).
    """
    asked = _scopes(dialect.scope)
    kept = asked if granted is None else _scopes(granted)
    dropped = [scope for scope in asked if scope not in kept]
    shown = redaction.detail(" ".join(kept), ()) or "none"
    lost = f"; dropped: {' '.join(dropped)}" if dropped else ""
    return (
        "the provider gave no refresh_token, so nothing can be kept alive "
        f"(granted scope: {shown}{lost}): {_cure(dialect, asked, dropped)}"
    )


def _cure(dialect: Dialect, asked: list[str], dropped: list[str]) -> str:
    prompt = dialect.authorization_params.get("prompt")
    if OFFLINE not in asked:
        return 'add "offline_access" to the provider\'s scope' if "openid" in asked else _ELSEWHERE
    if prompt is not None and "consent" not in prompt.split():
        return "remove prompt from authorization_params: without prompt=consent a server may ignore offline_access"
    if OFFLINE in dropped:
        return "allow the scope offline_access for this client at the provider"
    return "allow refresh tokens (offline access, grant type refresh_token) for this client at the provider"


def _scopes(scope: str | None) -> list[str]:
    """Return the scopes in *scope*; a few servers separate them by comma."""
    return (scope or "").replace(",", " ").split()
