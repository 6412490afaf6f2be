"""A search on Ray Tune: trials, early stopping, populations, shared data."""
