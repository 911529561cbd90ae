"""For the tests of whoever uses `broker.client`: a broker that answers as a real one does and does as it is told.

`FakeBroker` is a real HTTP server on loopback, so that the client under test is run whole. For pytest,
`pytest_plugins = ["broker.testing.fixtures"]` in `conftest.py` gives the fixture `fake_broker`.
"""

from broker.testing.fake import FakeBroker
from broker.testing.grants import FakeGrant

__all__ = ["FakeBroker", "FakeGrant"]
