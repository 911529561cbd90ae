"""The faces of the broker over HTTP. The only importer of `aiohttp.web`.

Each module owns one face: `tokens` what services read, `admin` what operators change, `login` what browsers see,
`ops` what supervisors and Prometheus ask, `status_page` what a person looks at. `app` puts them together, `front` is
the short way to what is asked all the time; `callers` and `session` know who asks.
"""

from broker.api import status_page  # noqa: F401 - reads the page's files: before the loop runs
from broker.api.answers import Answers
from broker.api.app import Api
from broker.api.callers import Callers
from broker.api.hosts import Hosts
from broker.api.ops import Health

__all__ = ["Answers", "Api", "Callers", "Health", "Hosts"]
