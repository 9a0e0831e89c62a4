"""From the grammar of a config to a plain nn.Module without values."""
