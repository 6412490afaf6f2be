"""The Ray cluster: connecting to it, actors and values that live on it."""
