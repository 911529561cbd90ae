"""The generated tables of the documentation: one command writes them, and a test holds pages and code equal."""
