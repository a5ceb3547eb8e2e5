"""clinipress: make a medical-image classifier small and fast, and prove what was lost."""

__version__ = "0.1.0"
