from __future__ import annotations

from pathlib import Path

import torch

from ray_st.models import Normalize


def test_makes_unit_length_and_leaves_zero_alone() -> None:
    features = {"sentence_embedding": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}
    found = Normalize()(features)["sentence_embedding"]
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_saved_and_read_also_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    Normalize("token_embeddings").save(tmp_path)
    assert Normalize.load(tmp_path).module_output_name == "token_embeddings"
    assert Normalize.load(tmp_path / "nothing").module_input_name == "sentence_embedding"
