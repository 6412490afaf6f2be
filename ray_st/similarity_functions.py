"""The similarities that a model can be told to use, by name."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from torch import Tensor

from ray_st.util import similarity
from ray_st.util.tensors import Embeddings

Similarity = Callable[[Embeddings, Embeddings], Tensor]


class SimilarityFunction(Enum):
    """A way to compare embeddings; its value is the name that model folders and arguments use."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # noqa: PIE796 (the same, spelt as its value)
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"The similarity function must be one of {cls.possible_values()}; got {value!r}.")

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Similarity:
        """The function that compares each embedding with each: (n, d) and (m, d) to (n, m).

        Args:
            similarity_function: A member or its value.

        Raises:
            ValueError: If there is no such similarity.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][0]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: str | SimilarityFunction) -> Similarity:
        """The function that compares row by row: (n, d) and (n, d) to (n,).

        Args:
            similarity_function: A member or its value.

        Raises:
            ValueError: If there is no such similarity.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][1]

    @staticmethod
    def possible_values() -> list[str]:
        """The names of all similarities."""
        return [member.value for member in SimilarityFunction]


# Each with each, and row by row.
_FUNCTIONS: dict[SimilarityFunction, tuple[Similarity, Similarity]] = {
    SimilarityFunction.COSINE: (similarity.cos_sim, similarity.pairwise_cos_sim),
    SimilarityFunction.DOT_PRODUCT: (similarity.dot_score, similarity.pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (similarity.euclidean_sim, similarity.pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (similarity.manhattan_sim, similarity.pairwise_manhattan_sim),
}
