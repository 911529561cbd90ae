"""A state machine over grants, outcomes and crash points, on the real scripts and the real write path."""
