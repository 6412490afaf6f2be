"""Search among embeddings: nearest documents, most similar pairs, communities, quantization.

Functions on tensors and arrays; may import only ``ray_st.util``. ``ray_st.util`` and ``ray_st.quantization``
export the public ones.
"""
