"""The fault suite: one table of faults, each run against real processes and judged by one invariant.

`python -m tests.chaos --seed 1 --duration 60 --grants 100` runs the whole table and prints it.
"""
