"""Search among embeddings: the best of a corpus, the best pairs, communities, fewer bits.

Functions of tensors and arrays; may import ``ray_st.util`` alone. What users call is offered by
``ray_st.util`` and ``ray_st.quantization``.
"""
