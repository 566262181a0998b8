"""Keeping secrets out of every text that leaves this package."""
