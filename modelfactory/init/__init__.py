"""Initialisation: keyed draws, effective fans, schemes, the rules that choose among them, and what fills a model."""
