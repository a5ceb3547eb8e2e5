"""Pruning as a step of a study, and each layer's sensitivity to it."""
