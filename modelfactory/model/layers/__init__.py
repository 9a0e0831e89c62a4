"""Containers and small layers that the grammar needs and torch.nn lacks, and the inference of sizes."""
