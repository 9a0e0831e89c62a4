"""Initialisation: pure in-place schemes, the fans of operators, keyed generators, and rules that choose among them."""
