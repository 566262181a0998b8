"""Gives an LLM agent a computer of its own."""
