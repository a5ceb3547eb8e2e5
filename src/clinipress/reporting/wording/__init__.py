"""Every word and number that a reader meets, made from records in one place."""
