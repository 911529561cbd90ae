"""For the tests of programs that use `broker.client`: a fake broker that a test controls.

`FakeBroker` is a real HTTP server on loopback, so that the whole client under test runs. For pytest,
`pytest_plugins = ["broker.testing.fixtures"]` in `conftest.py` gives the fixture `fake_broker`.
"""

from broker.testing.fake import FakeBroker
from broker.testing.grants import FakeGrant

__all__ = ["FakeBroker", "FakeGrant"]
