"""Images: read, audited, divided, decoded once; no torch."""
