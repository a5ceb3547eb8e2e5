"""Training: the one loop, its losses, its data and its memory."""
