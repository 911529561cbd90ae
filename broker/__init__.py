"""token-broker keeps OAuth 2.0 grants alive and hands the current access token to your services."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("token-broker")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"
