"""Mutated input against the product: `make fuzz` for the long run, a seeded share of it in `make test`."""
