"""What a model computes: one recorded graph of its operators, and what walks over it tell of each parameter."""
