"""File formats, one room each: how a file is made of a network, and how it answers."""
