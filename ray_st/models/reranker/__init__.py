"""Rerankers: models that read two texts together and score the pair.

``cross_encoder`` is the model; ``pair_encoder`` turns texts into token ids and joins them to pairs,
``reranker_folder`` reads and writes model folders, ``pair_scoring`` computes the scores of many pairs. May
import the rest of ``models``; what the embedder and the reranker share lives one floor up.
"""
