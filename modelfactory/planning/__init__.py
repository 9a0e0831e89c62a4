"""From the specs of a config to a plan: which value every parameter gets."""
