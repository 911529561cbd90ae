"""The store: grants, schedule and pending logins in Redis. The only importer of `redis`.

Knows nothing of providers' answers, of HTTP, or of when to refresh: it keeps and hands out.
"""

from broker.store.claims import Claimed
from broker.store.commit_group import MOST_TOGETHER
from broker.store.flows import Flow, Flows
from broker.store.grants import Grants, Page, ProviderState
from broker.store.notices import Leased, Notices
from broker.store.opening import Store, open_store
from broker.store.prepared import PreparedCommit
from broker.store.redis.embedded import embedded_server
from broker.store.redis.primary import Primary
from broker.store.register import Import, Registered
from broker.store.registry import Held, PreparedLogin, Registry, Restored
from broker.store.schedule import Expedited, Recorded, Schedule

__all__ = [
    "MOST_TOGETHER",
    "Claimed",
    "Expedited",
    "Flow",
    "Flows",
    "Grants",
    "Held",
    "Import",
    "Leased",
    "Notices",
    "Page",
    "PreparedCommit",
    "PreparedLogin",
    "Primary",
    "ProviderState",
    "Recorded",
    "Registered",
    "Registry",
    "Restored",
    "Schedule",
    "Store",
    "embedded_server",
    "open_store",
]
