"""A training run on Ray Train: from the driver to the workers and back."""
