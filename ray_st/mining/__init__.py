"""Hard negatives: texts close to a query that do not answer it, found among the documents of a dataset.

Each file is one step: read pairs, embed texts, search candidates, rescore, select and write. Pure functions
of texts and arrays; may import ``ray_st.util`` alone. A cluster searches through ``ray_st.runtime``.
"""
