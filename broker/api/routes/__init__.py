"""The routes, a file for each subject, and their description as OpenAPI."""
