"""The HTTP API of the broker. The only importer of `aiohttp.web`.

`app` puts the applications together from `routes`, which holds a module for each subject. `server` customises aiohttp's
server; `callers` and `session` know who asks.
"""
