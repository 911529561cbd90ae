"""The read path: serve tokens from memory, and keep memory current with the store.

`cache` holds tokens, `follower` keeps it current, `reader` serves them. Knows nothing of HTTP or of providers'
responses.
"""

from broker.read.cache import Cache
from broker.read.follower import Follower
from broker.read.reader import Reader

__all__ = ["Cache", "Follower", "Reader"]
