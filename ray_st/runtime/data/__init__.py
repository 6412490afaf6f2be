"""Datasets on Ray: encoded blocks in the object store, plans from one actor."""
