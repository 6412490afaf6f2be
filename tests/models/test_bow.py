from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from module_helpers import TEXTS, VOCABULARY, there_and_back
from ray_st import SentenceTransformer
from ray_st.models import BoW, Dense
from ray_st.models.folder_files import ModelFolderError


@pytest.mark.parametrize("cumulative", [True, False])
def test_counts_words_by_their_weight(cumulative: bool) -> None:
    bag = BoW(["sun", "rain", "sun", "Fog"], {"rain": 2.0, "fog": 3.0}, 0.5, cumulative)
    found = SentenceTransformer(modules=[bag], device="cpu").encode(["rain (rain) sun! hail", "Fog", ""])
    expected = [[0.5, 4.0 if cumulative else 2.0, 0], [0, 0, 3.0], [0, 0, 0]]
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("cumulative", [True, False])
def test_to_the_peer_and_back(cumulative: bool, peer: Any, tmp_path: Path) -> None:
    bag = BoW(VOCABULARY, {"weather": 2.5}, cumulative_term_frequency=cumulative)
    there_and_back([bag, Dense(len(VOCABULARY), 3)], peer, tmp_path, TEXTS)


def test_without_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a vocab, a list of words; got \[\]"):
        BoW([])
    with pytest.raises(ModelFolderError, match=r"has no config\.json .* a BoW module needs"):
        BoW.load(tmp_path)
