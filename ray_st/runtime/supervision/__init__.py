"""A run under supervision: stops, hangs, lost workers, metrics, the driver's console."""
