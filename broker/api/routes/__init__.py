"""The routes, a file for each subject, and what OpenAPI says of them."""
