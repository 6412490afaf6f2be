"""Rows, keys, samplers and plans: what is in a batch and in which order, as functions of plain values."""
