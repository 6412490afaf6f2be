"""Words that both arguments and the parts that they set know."""

COLLISIONS = ("keep", "mask", "drop")
"""What may become of rows that share a text with too many others to fit full batches."""
