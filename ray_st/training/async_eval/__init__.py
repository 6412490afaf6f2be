"""Evaluation in another process: what a worker asks of it, and how it enters the answers."""
