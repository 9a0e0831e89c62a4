"""Errors, the reader of mappings, `_target_`, and Hydra's compose."""
