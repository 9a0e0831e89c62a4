"""Propagation rules by operator."""
