"""Evaluation in another process: requests from workers, and logging of the results."""
