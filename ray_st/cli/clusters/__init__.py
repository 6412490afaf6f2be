"""Clusters from short descriptions: manifests for Kubernetes, and nodes on this machine."""
