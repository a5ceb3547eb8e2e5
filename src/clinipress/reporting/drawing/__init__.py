"""Markup, figures and pictures of which pages are built."""
