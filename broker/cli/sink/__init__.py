"""`token-broker sink`: keep files current for services that read a token from a file."""
