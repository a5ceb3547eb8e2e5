"""Networks: built, loaded, cut smaller."""
