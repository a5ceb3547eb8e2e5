"""Kinds of case, one room each: reading, facts, disturbing, refusing. numpy and Pillow only."""
