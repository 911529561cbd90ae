"""The journal: what a token response brought is on this replica's own disk before anybody relies on Redis.

`journal` batches appends and keeps the entries, `file_format` reads and writes the file, `disk` is the thread that
does so, and `replay` gives a store back what it lost.
"""
