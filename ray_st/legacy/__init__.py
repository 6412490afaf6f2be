"""Training as older scripts call it, on what trains now."""
