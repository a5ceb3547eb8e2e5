"""Distillation: soft targets, features, teachers, and the loss."""
