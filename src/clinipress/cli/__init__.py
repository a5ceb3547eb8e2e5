"""The command line: a thin skin over public functions."""
