"""The tables of the papers the project was born from: run again, beside the figures they print."""
