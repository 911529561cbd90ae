"""The HTTP API of the broker. The only importer of `aiohttp.web`.

`routes` holds a module for each subject. `app` puts them together, `front` is the short way to what is asked all the
time; `callers` and `session` know who asks.
"""

from broker.api.app import Api
from broker.api.cached_responses import Answers
from broker.api.callers import Callers
from broker.api.hosts import Hosts
from broker.api.routes import status_page  # noqa: F401 - reads the page's files: before the loop runs
from broker.api.routes.health import Health

__all__ = ["Answers", "Api", "Callers", "Health", "Hosts"]
