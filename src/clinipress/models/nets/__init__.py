"""Networks that no library has."""
