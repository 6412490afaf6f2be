"""The Ray cluster: connecting to it, and the actors and values that live on it."""
