"""Once-for-all supernets: shrinking, and the search for a sub-net."""
