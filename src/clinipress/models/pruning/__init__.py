"""Channels and heads removed for good: what hangs together, what matters least, what is cut."""
