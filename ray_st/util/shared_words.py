"""Words that arguments share with the parts that they configure."""

COLLISIONS = ("keep", "mask", "drop")
"""What can happen to rows that share a text with too many others to fit into full batches."""
