"""Fuzz whatever reads bytes of others: bounded in the suite, for longer by `python -m tests.fuzz`."""
