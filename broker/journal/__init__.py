"""The journal: what a token response brought is on this replica's own disk before anybody relies on Redis.

`journal` appends and compacts, `disk` is the thread that writes, `replay` gives a store back what it lost.
"""
