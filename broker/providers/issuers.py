"""Compare issuers (OIDC Discovery §4.3, RFC 9207 §2.4), also that of a document which speaks for many tenants. Pure.

Microsoft Entra ID publishes one document for all tenants, at `https://login.microsoftonline.com/common/v2.0` for
instance. Its `issuer` holds `{tenantid}`: the tenant is known only from the `tid` of an id_token.
"""

from __future__ import annotations

import re

TENANT = "{tenantid}"
_SHARED = frozenset({"common", "organizations", "consumers"})
"""Names under which Entra serves the document of many tenants."""
_SHARED_PART = re.compile(r"(?<=\.microsoftonline\.com)/(?:common|organizations|consumers)(?=/|$)")
_TENANT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant of personal accounts: `consumers` by its id."""


def is_document_of(documented: str, configured: str) -> bool:
    """Return whether a discovery document whose issuer is *documented* belongs to the issuer in the settings.

    Equal in every character, except where the settings name a shared tenant of Entra.
    """
    if documented == configured:
        return True
    if TENANT in documented:
        return _tenant(documented, configured) in _SHARED
    return configured.count("/consumers/") == 1 and documented == configured.replace("consumers", _PERSONAL)


def of_any_tenant(configured: str) -> str:
    """Return an issuer as its document has it: with `{tenantid}` where the settings name many tenants of Entra."""
    return _SHARED_PART.sub(f"/{TENANT}", configured, count=1)


def issuer_matches(documented: str, wanted: str, tid: str | None) -> bool:
    """Return whether *wanted*, the `iss` of an id_token or a callback, is the issuer *documented*.

    Args:
        documented: issuer of the discovery document (where there is none, of the settings).
        wanted: the `iss` to judge.
        tid: the `tid` of the same id_token ("" where it has none); None: of a callback, which names no tenant, so that
            any tenant fits.
    """
    if TENANT not in documented:
        return wanted == documented
    tenant = _tenant(documented, wanted)
    return _TENANT_ID.fullmatch(tenant) is not None and tid in {None, tenant}


def _tenant(documented: str, issuer: str) -> str:
    """Return what *issuer* has in place of `{tenantid}`; "" where the rest differs."""
    before, _, after = documented.partition(TENANT)
    fits = issuer.startswith(before) and issuer.endswith(after) and len(issuer) > len(before) + len(after)
    return issuer[len(before) : len(issuer) - len(after)] if fits else ""
