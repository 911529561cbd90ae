"""The faces of the broker over HTTP. The only importer of `aiohttp.web`.

Each module owns one face: `tokens` what services read, `admin` what operators change, `login` what browsers see,
`ops` what supervisors and Prometheus ask. `app` puts them together; `callers` knows who asks.
"""

from broker.api.app import Api, applications
from broker.api.callers import Callers
from broker.api.ops import Health

__all__ = ["Api", "Callers", "Health", "applications"]
