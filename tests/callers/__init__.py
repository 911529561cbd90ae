"""Services that take their token in their own way."""
