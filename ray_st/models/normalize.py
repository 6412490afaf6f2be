"""Embeddings of unit length."""

from __future__ import annotations

from typing import ClassVar

from ray_st.models.module import Features, Module
from ray_st.util.tensors import normalize_embeddings


class Normalize(Module):
    """Scales embeddings to unit length, so that dot product and cosine are the same.

    Args:
        module_input_name: The feature to scale.
        module_output_name: The feature that receives the result; by default the same.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("module_input_name", "module_output_name")

    def __init__(
        self, module_input_name: str = "sentence_embedding", module_output_name: str | None = None
    ) -> None:
        super().__init__()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    def forward(self, features: Features) -> Features:
        """The features with the embedding scaled: (n, d) to (n, d)."""
        return {**features, self.module_output_name: normalize_embeddings(features[self.module_input_name])}
