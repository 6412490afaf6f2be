"""Encoding, evaluating and mining on the cluster."""
