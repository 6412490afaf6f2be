"""Evaluators that search a corpus: information retrieval, and NanoBEIR, which is made of it.

A corpus is searched in blocks that a team shares out; the tables of a dataset come from the Hub or a folder.
"""
