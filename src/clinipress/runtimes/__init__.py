"""Runtimes: one small module each, from a file to predictions."""
