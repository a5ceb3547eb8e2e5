"""What is written and read back: frozen, JSON-able records, and the run folder that keeps them."""
