"""SYNTHETIC sets, drawn by our own code."""
