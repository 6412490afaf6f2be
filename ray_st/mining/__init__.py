"""Hard negatives: texts close to a query that do not answer it, found by a model among the documents of a dataset.

Each file is one step: pairs are read, texts embedded, candidates searched, rescored, filtered, picked and written.
"""
