"""Callbacks of a run: progress, events, throughput, goodput, stops, trackers, model card, Hub."""
