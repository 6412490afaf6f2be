"""What every loss over scores keeps, and how it compares with slow loops. A new loss adds cases to ``CASES``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_st.losses import scores
from ray_st.losses.parts import total
from ray_st.testing import GivenLogits, ScoreCase, ScoreLossConformance, TinyReranker
from ray_st.testing.loss_conformance import close
from ray_st.testing.score_loss_conformance import PairBatch
from ray_st.testing.tiny_encoder import DIM, token_columns
from ray_st.util.host_facts import PAIR_COUNTS
from score_cases import CASES, Case


@pytest.mark.parametrize("name", CASES)
class TestScoreLosses(ScoreLossConformance):
    @pytest.fixture
    def case(self, name: str) -> ScoreCase:
        return CASES[name].conformance


def _lists(labels: Tensor | None) -> Any:
    """Labels as plain numbers, without the padding."""
    if labels is None or labels.ndim == 1:
        return None if labels is None else labels.tolist()
    return [[label for label in row.tolist() if label == label] for row in labels]


def _compare(case: Case, logits: Tensor, counts: Sequence[int], labels: Tensor | None) -> None:
    """Value and gradient against the slow lines."""
    model = GivenLogits(logits.double())
    loss = case.conformance.build(model)
    value = total(loss([{**model.features, PAIR_COUNTS: torch.tensor(counts)}], labels))
    leaf = model.logits.detach().clone().requires_grad_()
    single = case.num_labels == 1
    rows = (
        [part[:, 0].unbind() for part in leaf.split(list(counts))] if single else [r.unbind() for r in leaf]
    )
    slow = case.brute(rows, *([] if labels is None else [_lists(labels)]))
    close(value, torch.as_tensor(slow, dtype=value.dtype), 1e-6)
    if isinstance(slow, Tensor) and slow.requires_grad:
        close(torch.autograd.grad(value, model.logits)[0], torch.autograd.grad(slow, leaf)[0], 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_slow_loops(name: str) -> None:
    case = CASES[name]
    shape = PairBatch.of(
        case.conformance, case.conformance.build(GivenLogits(torch.zeros(1, case.num_labels)))
    )
    pairs = int(shape.counts.sum())
    logits = torch.randn(pairs, case.num_labels, generator=torch.Generator().manual_seed(2))
    _compare(case, logits, shape.counts.tolist(), shape.labels)


LISTWISE = [name for name, case in CASES.items() if case.labels == "lists"]


@pytest.mark.parametrize("name", LISTWISE)
@pytest.mark.parametrize(
    "labels",
    [[[2.0]], [[1.0], [0.5, 0.25]], [[1.0, 1.0, 1.0], [0.0, 0.0]], [[-1.0, 3.0, 0.3, 0.3], [0.0, -2.0, 1.0]]],
    ids=["one document", "one of one document", "ties", "below zero"],
)
def test_short_lists_and_ties(name: str, labels: list[list[float]]) -> None:
    counts = [len(row) for row in labels]
    padded = torch.full((len(counts), max(counts)), torch.nan, dtype=torch.float64)
    for row, given in enumerate(labels):
        padded[row, : len(given)] = torch.tensor(given)
    logits = torch.randn(sum(counts), 1, generator=torch.Generator().manual_seed(5))
    _compare(CASES[name], logits, counts, padded)


@pytest.mark.parametrize("name", LISTWISE)
def test_equal_logits(name: str) -> None:
    """Equal scores keep the order of the documents, which top-k and discounts depend on."""
    labels = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.0, 0.0, 1.0, 3.0]]).double()
    logits = torch.tensor([0.3, 0.3, 0.3, 0.3, -1.0, 2.0, 2.0, -1.0])[:, None]
    _compare(CASES[name], logits, [4, 4], labels)


@pytest.mark.parametrize("name", [name for name in LISTWISE if name.startswith("lambda")])
def test_large_labels(name: str) -> None:
    labels = torch.tensor([[300.0, 0.0, 299.0, 250.0], [100.0, 60.0, 99.0, 0.0]]).double()
    logits = torch.randn(8, 1, generator=torch.Generator().manual_seed(6))
    _compare(CASES[name], logits, [4, 4], labels)
    model = GivenLogits(logits)
    loss = CASES[name].conformance.make(model)
    loss([{**model.features, PAIR_COUNTS: torch.tensor([4, 4])}], labels.float()).backward()
    assert torch.isfinite(model.logits.grad).all()


@pytest.mark.parametrize("cached", [False, True])
def test_with_a_cache_what_is_kept_does_not_grow_with_lists(cached: bool) -> None:
    def kept(documents: int) -> int:
        """Numbers that are kept for the backward pass, but for those of the lists themselves."""
        loss = scores.LambdaLoss(TinyReranker(), mini_batch_size=4 if cached else None)
        (features,) = token_columns(1, 3 * documents)
        found = [0]

        def count(tensor: Tensor) -> Tensor:
            found[0] += tensor.numel() if tensor.ndim == 2 and tensor.shape[1] == DIM else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            labels = torch.arange(documents).repeat(3, 1)
            loss([{**features, PAIR_COUNTS: torch.tensor([documents] * 3)}], labels)
        return found[0]

    assert (kept(20) == kept(40)) == cached


def test_labels_as_lists_of_tensors_are_those_of_a_padded_tensor() -> None:
    model = GivenLogits(torch.randn(5, 1))
    loss = scores.ListNetLoss(model)
    features = [{**model.features, PAIR_COUNTS: torch.tensor([2, 3])}]
    wanted = loss(features, torch.tensor([[1.0, 0.0, torch.nan], [0.5, 2.0, 1.0]]))
    assert loss(features, [torch.tensor([1, 0]), torch.tensor([0.5, 2.0, 1.0])]) == wanted
    assert loss(features, [[1, 0], [0.5, 2.0, 1.0]]) == wanted


def test_long_lists_have_finite_weights() -> None:
    mask = torch.arange(400) < torch.tensor([[400], [3]])
    weights = scores.PListMLELambdaWeight()(mask)
    assert torch.isfinite(weights.sum(1)).all()
    assert weights[1, :4].tolist() == [3, 1, 0, 0]
    shares = weights[0] / weights[0].sum()
    torch.testing.assert_close(shares[:3], torch.tensor([0.5, 0.25, 0.125]))


def test_drawn_negatives_are_of_other_rows_and_differ() -> None:
    loss = scores.MultipleNegativesRankingLoss(GivenLogits(torch.zeros(1, 1)), num_negatives=3)
    chosen = loss.pairing(6, 3, np.random.default_rng(4))
    assert chosen.counts(6).tolist() == [6] * 6
    for row in range(6):
        mine = chosen.of(row, row + 1)
        assert set(mine.row) == {row}
        places = list(zip(mine.column.tolist(), mine.other.tolist(), strict=True))
        assert places[0] == (0, row)
        assert places[-2:] == [(1, row), (2, row)]
        assert len(set(places)) == 6
        assert all(other != row for _, other in places[1:4])
    again = loss.pairing(6, 3, np.random.default_rng(4))
    assert all(np.array_equal(vars(chosen)[key], vars(again)[key]) for key in ("row", "column", "other"))
    drawn = [loss.pairing(6, 3, np.random.default_rng(seed)).other[1] for seed in range(40)]
    assert set(drawn) == set(range(1, 6))


@pytest.mark.parametrize(
    ("negatives", "rows", "pairs"), [(None, 4, 8), (0, 4, 2), (9, 4, 8), (2, 4, 4), (4, 1, 2), (None, 1, 2)]
)
def test_few_rows_have_few_negatives(negatives: int | None, rows: int, pairs: int) -> None:
    loss = scores.MultipleNegativesRankingLoss(GivenLogits(torch.zeros(1, 1)), num_negatives=negatives)
    chosen = loss.pairing(rows, 2, np.random.default_rng(0))
    assert chosen is not None
    assert chosen.counts(rows).tolist() == [pairs] * rows


def test_an_ignored_class_counts_nothing() -> None:
    model = GivenLogits(torch.randn(3, 2))
    loss = scores.CrossEntropyLoss(model)
    value = loss([model.features], torch.tensor([0, -100, 1]))
    wanted = torch.nn.functional.cross_entropy(model.logits[[0, 2]], torch.tensor([0, 1]))
    torch.testing.assert_close(value, wanted)
    assert loss([model.features], torch.tensor([-100, -100, -100])) == 0


def test_probabilities_of_classes() -> None:
    model = GivenLogits(torch.randn(3, 2))
    labels = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    weight = torch.tensor([1.0, 3.0])
    value = scores.CrossEntropyLoss(model, weight=weight, label_smoothing=0.1)([model.features], labels)
    wanted = torch.nn.functional.cross_entropy(model.logits, labels, weight, label_smoothing=0.1)
    torch.testing.assert_close(value, wanted)


@pytest.mark.parametrize("name", ["bce", "mse", "ce", "margin"])
def test_sums(name: str) -> None:
    case = CASES[name]
    torch_loss = {"bce": "binary_cross_entropy_with_logits", "mse": "mse_loss", "ce": "cross_entropy"}
    model = GivenLogits(torch.randn(12 * (case.columns - 1), case.num_labels).double())
    loss = getattr(scores, case.loss)(model, reduction="sum").double()
    assert loss.sums
    batch = PairBatch.of(case.conformance, loss)
    features, labels = batch.inputs()
    features = [{**model.features, PAIR_COUNTS: features[0][PAIR_COUNTS]}]
    if name == "margin":
        table = model.logits.reshape(12, 3)
        wanted = (table[:, :1] - table[:, 1:] - labels).square().sum()
    else:
        logits = model.logits if name == "ce" else model.logits[:, 0]
        wanted = getattr(torch.nn.functional, torch_loss[name])(logits, labels, reduction="sum")
    close(loss(features, labels), wanted)
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum'; got 'none'"):
        getattr(scores, case.loss)(model, reduction="none")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda m: scores.LambdaLoss(m, k=0), "k must be at least 1"),
        (lambda m: scores.LambdaLoss(m, reduction_log="ten"), "reduction_log must be one of .*'ten'"),
        (lambda m: scores.MultipleNegativesRankingLoss(m, num_negatives=-1), "num_negatives must be .*-1"),
        (lambda m: scores.CachedMultipleNegativesRankingLoss(m, mini_batch_size=0), "mini_batch_size"),
        (lambda m: scores.BinaryCrossEntropyLoss(m, pos_weight=torch.ones(2)), r"pos_weight .*\(2,\)"),
    ],
)
def test_wrong_options(make: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        make(GivenLogits(torch.zeros(2, 1)))


def test_a_size_of_zero_or_less_caches_nothing() -> None:
    loss = scores.ListNetLoss(GivenLogits(torch.zeros(2, 1)), mini_batch_size=-1)
    assert loss.mini_batch_size is None


def test_documents_and_labels_of_unequal_lengths() -> None:
    loss = scores.LambdaLoss(GivenLogits(torch.zeros(5, 1)))
    with pytest.raises(ValueError, match=r"found 1 label\(s\) for 2 document\(s\) in row 0 of the batch"):
        loss([{**loss.model.features, PAIR_COUNTS: torch.tensor([2, 3])}], [[1.0], [1.0, 0.0, 2.0]])


def test_bad_texts() -> None:
    loss = scores.LambdaLoss(GivenLogits(torch.zeros(5, 1)))
    with pytest.raises(
        ValueError, match="a list of documents in each row of text column 2; found str in row 0"
    ):
        loss([["w1", "w2"], ["w3", "w4"]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match=r"at least one document .*row\(s\) \[1\]"):
        loss([["w1", "w2"], [["w3"], []]], [[1.0], []])
    with pytest.raises(ValueError, match="a text in each row of text column 2; found list in row 1"):
        scores.MSELoss(loss.model)([["w1", "w2"], ["w3", ["w4"]]], torch.ones(2))


def test_bad_features() -> None:
    model = GivenLogits(torch.zeros(4, 1))
    features = model.features
    with pytest.raises(ValueError, match="needs pair_counts among the features"):
        scores.LambdaLoss(model)([features], [[1.0]])
    with pytest.raises(ValueError, match="as one dict, or text columns; found 2 inputs, 2 of them dicts"):
        scores.MSELoss(model)([features, features], torch.ones(4))
    with pytest.raises(ValueError, match="as many pairs as pair_counts says, 2; found 4"):
        scores.MSELoss(model)([{**features, PAIR_COUNTS: torch.ones(2, dtype=torch.long)}], torch.ones(2))
    with pytest.raises(ValueError, match="as many pairs in each row; found 1 in row 0 and 3 in row 1"):
        scores.MarginMSELoss(model)([{**features, PAIR_COUNTS: torch.tensor([1, 3])}], torch.ones(2))
    with pytest.raises(ValueError, match="takes scores of pairs"):
        scores.MSELoss(model).compute_loss_from_embeddings([torch.ones(2, 2)])
