"""Initialisation schemes, a file a family, and the table of their names."""
