"""Metrics as functions of arrays.

Correlations, ranked lists and thresholds; no model and no text. May import numpy, torch
and ``ray_st.util``. A new kind of metric is a new file here, with a test against a slow version of it.
"""
