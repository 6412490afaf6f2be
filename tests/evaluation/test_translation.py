from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_st.evaluation import TranslationEvaluator
from ray_st.evaluation.translation import nearest_both_ways
from ray_st.util import cos_sim
from simulated_team import together


class Corners:
    """Embeds texts as given."""

    def __init__(self, **embeddings: list[float]) -> None:
        self.embeddings = embeddings

    def encode(self, texts: list[str], **options: object) -> torch.Tensor:
        return torch.tensor([self.embeddings[text] for text in texts])


MODEL = Corners(one=[1.0, 0.0], two=[0.0, 1.0], eins=[1.0, 0.1], zwei=[0.9, 0.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["b", "c"]), r"same length; found \{'source_sentences': 1, 'target_sentences': 2\}"),
        ((["a", None], ["b", "c"]), "source_sentences; row 1 is None"),
        (("a", ["b"]), "needs source_sentences as a list of texts"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        TranslationEvaluator(*arguments)


def test_both_directions_count() -> None:
    found = TranslationEvaluator(["one", "two"], ["eins", "zwei"])(MODEL)
    assert found == {"src2trg_accuracy": 1.0, "trg2src_accuracy": 0.5, "mean_accuracy": 0.75}


def test_the_same_text_elsewhere_counts_as_right() -> None:
    found = TranslationEvaluator(["one", "one", "two"], ["eins", "eins", "zwei"])(MODEL)
    assert found["src2trg_accuracy"] == 1


def test_wrong_matches_are_printed_if_asked(capsys) -> None:
    TranslationEvaluator(["one", "two"], ["zwei", "eins"])(MODEL)
    assert not capsys.readouterr().out
    TranslationEvaluator(["one", "two"], ["zwei", "eins"], print_wrong_matches=True)(MODEL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "source 0: one",
        "  should be target 0 (0.9762): zwei",
        "  is near target 1 (0.9950): eins",
    ]


def test_nan_embeddings_are_refused() -> None:
    broken = Corners(one=[np.nan, 0.0], eins=[1.0, 0.0])
    with pytest.raises(ValueError, match="1 of 1 are not, the first is that of 'one'"):
        TranslationEvaluator(["one"], ["eins"])(broken)


def sides(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(levels)
    first, second = (torch.randint(0, levels, (n, 4), generator=generator).float() for n in (23, 17))
    return first, second


@pytest.mark.parametrize("levels", [2, 3, 1000])
@pytest.mark.parametrize("scores_at_once", [1, 40, 10**6])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_blocks_and_teams_find_the_same(levels, scores_at_once, size) -> None:
    first, second = sides(levels)
    scores = np.round(cos_sim(first, second).numpy(), 5)
    found = together(size, lambda team: nearest_both_ways(first, second, team, scores_at_once))
    for to_second, to_first in found:
        np.testing.assert_array_equal(scores[np.arange(23), to_second], scores.max(axis=1))
        np.testing.assert_array_equal(scores[to_first, np.arange(17)], scores.max(axis=0))
        np.testing.assert_array_equal(to_second, found[0][0])
        np.testing.assert_array_equal(to_first, found[0][1])


def test_of_equally_near_ones_the_first_is_taken() -> None:
    rows = torch.ones(5, 2)
    for scores_at_once in (1, 10, 100):
        to_second, to_first = nearest_both_ways(rows, rows, scores_at_once=scores_at_once)
        assert not to_second.any()
        assert not to_first.any()
