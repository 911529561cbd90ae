"""The read path: what callers are answered from memory, and how memory follows the store.

`cache` holds, `follower` keeps it current, `reader` answers. Knows nothing of HTTP or of providers' answers.
"""

from broker.read.cache import Cache
from broker.read.follower import Follower
from broker.read.reader import Reader

__all__ = ["Cache", "Follower", "Reader"]
