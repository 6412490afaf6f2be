"""Supervision of a run: stops, hangs, lost workers, metrics, the driver's console."""
