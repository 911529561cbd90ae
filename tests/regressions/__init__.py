"""Inputs from the field: what people met with such daemons, each tried against a running broker."""
