"""The contract of every loss over scores of pairs, as one class of tests."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_st.losses.parts import total
from ray_st.losses.scores.score_loss import ScoreLoss
from ray_st.testing.loss_conformance import (
    DOUBLE,
    FAST_PATHS,
    LABELS,
    ROWS,
    Recorder,
    SharedPool,
    close,
    take_path,
)
from ray_st.testing.tiny_encoder import Features, gradient, token_columns
from ray_st.testing.tiny_reranker import GivenLogits, TinyReranker
from ray_st.util.host_facts import PAIR_COUNTS

LISTS = np.array([3, 1, 4, 2, 5, 1, 2, 3, 7, 2, 4, 3])
"""Documents of each of the rows of a batch of lists."""


@dataclass(frozen=True)
class ScoreCase:
    """A loss over scores under test, and the rows that it is given.

    Args:
        make: Makes the loss around a model, which has ``num_labels``.
        columns: Number of text columns; 2 for a loss over lists.
        labels: What the labels are: "none", "score", "binary", "class", "margins" (a number for each
            negative), "candidates" (one for each document), or "lists" for a loss over lists.
        num_labels: Number of labels of the model.
    """

    make: Callable[[nn.Module], ScoreLoss]
    columns: int = 2
    labels: str = "none"
    num_labels: int = 1

    def build(self, model: nn.Module) -> ScoreLoss:
        """The loss in double precision."""
        return self.make(model).double()


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs.

    Attributes:
        features: Of all pairs (P, ...), row by row.
        counts: Pairs of each row (n,).
        labels: (n,), (n, c), or None.
    """

    features: Mapping[str, Tensor]
    counts: NDArray[np.int64]
    labels: Tensor | None

    @classmethod
    def of(cls, case: ScoreCase, loss: ScoreLoss, rows: int = ROWS) -> PairBatch:
        """Random pairs, with the labels of a case.

        Args:
            case: The case.
            loss: Its loss, which may choose the pairs.
            rows: Number of rows n.
        """
        chosen = loss.pairing(rows, case.columns - 1, np.random.default_rng(0))
        counts = np.full(rows, case.columns - 1) if chosen is None else chosen.counts(rows)
        counts = LISTS[:rows] if loss.lists else counts
        (features,) = token_columns(1, int(counts.sum()))
        labels = _list_labels(counts) if case.labels == "lists" else LABELS[case.labels](rows, case.columns)
        return cls(features, counts, labels)

    def rows(self, chosen: slice | Tensor) -> PairBatch:
        """Some rows, with their pairs and labels.

        Args:
            chosen: Which rows.
        """
        numbers = np.arange(len(self.counts))[chosen if isinstance(chosen, slice) else chosen.numpy()]
        starts = np.cumsum(self.counts) - self.counts
        pairs = torch.from_numpy(np.concatenate([starts[n] + np.arange(self.counts[n]) for n in numbers]))
        labels = None if self.labels is None else self.labels[torch.from_numpy(numbers)]
        return PairBatch({k: v[pairs] for k, v in self.features.items()}, self.counts[numbers], labels)

    def inputs(self, labels: bool = True) -> tuple[list[Features], Tensor | None]:
        """What the loss is called with.

        Args:
            labels: Whether there are labels.
        """
        features = {**self.features, PAIR_COUNTS: torch.from_numpy(self.counts)}
        return [features], self.labels if labels else None


def _list_labels(counts: NDArray[np.int64]) -> Tensor:
    """Labels of lists, some of them equal and some 0, padded with NaN."""
    shape = len(counts), int(counts.max())
    labels = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(1)).to(DOUBLE) / 2
    return labels.masked_fill(torch.arange(shape[1]) >= torch.from_numpy(counts)[:, None], torch.nan)


class ScoreLossConformance:
    """Tests of a loss over scores; a subclass defines the fixture ``case``.

    Value and gradient depend on the batch alone, not on how it is split, ordered, chunked or cached. Extreme
    logits give finite values; invalid input raises an error that names the problem.
    """

    @pytest.fixture
    def case(self) -> ScoreCase:
        """The loss under test."""
        raise NotImplementedError("define the fixture `case`: it returns a ray_st.testing.ScoreCase")

    @pytest.fixture
    def model(self, case: ScoreCase) -> TinyReranker:
        """The model that the loss is made with."""
        return TinyReranker(case.num_labels)

    @pytest.fixture
    def loss(self, case: ScoreCase, model: TinyReranker) -> ScoreLoss:
        """The loss, in double precision."""
        return case.build(model)

    @pytest.fixture
    def batch(self, case: ScoreCase, loss: ScoreLoss) -> PairBatch:
        """The batch."""
        return PairBatch.of(case, loss)

    def test_the_gradient_reaches_the_model(
        self, loss: ScoreLoss, model: TinyReranker, batch: PairBatch
    ) -> None:
        """A loss without a gradient trains nothing."""
        assert gradient(total(loss(*batch.inputs())), model).abs().max() > 1e-6

    def test_order_of_rows_does_not_matter(self, loss: ScoreLoss, batch: PairBatch) -> None:
        """Value and gradient do not depend on the order of the rows."""
        mine = total(loss(*batch.inputs()))
        turned = total(loss(*batch.rows(torch.randperm(ROWS)).inputs()))
        close(mine, turned)
        close(gradient(mine, loss), gradient(turned, loss))

    @pytest.mark.parametrize("sizes", [[6, 6], [1] * 12, [7, 5, 0]])
    def test_slices_are_the_whole(self, loss: ScoreLoss, batch: PairBatch, sizes: list[int]) -> None:
        """The mean of workers' losses, weighted by rows, is the loss of the batch, in value and gradient."""
        whole = total(loss(*batch.inputs()))
        recorder = Recorder()
        loss.bind(recorder)
        close(total(loss(*batch.inputs())), whole)
        value, offset = torch.zeros((), dtype=DOUBLE), 0
        for size in sizes:
            chosen = slice(offset, offset + size) if size else slice(0, 1)  # an idle rank holds a filler
            pool = SharedPool(recorder.seen, offset, idle=size == 0)
            loss.bind(pool)
            part = total(loss(*batch.rows(chosen).inputs()))
            assert not pool.pools
            value, offset = value + part * size / ROWS, offset + size
        close(value, whole)
        close(gradient(value, loss), gradient(whole, loss))

    def test_idle_rank_gives_a_joined_zero(self, loss: ScoreLoss, batch: PairBatch) -> None:
        """A worker without rows in a step returns zero, and its backward pass still reaches every weight."""
        recorder = Recorder()
        loss.bind(recorder)
        loss(*batch.inputs())
        loss.own_weight = nn.Parameter(torch.tensor(torch.inf, dtype=DOUBLE))
        loss.bind(SharedPool(recorder.seen, 0, idle=True))
        value = loss(*batch.rows(slice(0, 1)).inputs())
        assert total(value).item() == 0
        assert isinstance(value, Tensor) or list(value) == list(loss.parts)
        total(value).backward()
        used = [weight for name, weight in loss.named_parameters() if not name.endswith("types")]
        assert all(weight.grad is not None and not weight.grad.any() for weight in used)

    def test_every_fast_path_is_plain(self, loss: ScoreLoss, model: TinyReranker, batch: PairBatch) -> None:
        """Chunks, the gradient cache and tiles change neither value nor gradient."""
        take_path(loss)
        whole = total(loss(*batch.inputs()))
        for name, path in FAST_PATHS.items():
            take_path(loss, **path)
            model.calls.clear()
            fast = total(loss(*batch.inputs()))
            assert name == "tiles" or len(model.calls) > 1
            close(fast, whole)
            close(gradient(fast, loss), gradient(whole, loss))
            with torch.no_grad():
                close(total(loss(*batch.inputs())), whole)

    @pytest.mark.parametrize("kind", ["zero", "huge", "tiny", "rising", "one row"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_finite_on_extreme_logits(self, case: ScoreCase, kind: str, dtype: torch.dtype) -> None:
        """Value and gradient are finite for extreme logits."""
        rows = 1 if kind == "one row" else 5
        one = case.make(TinyReranker(case.num_labels))
        batch = PairBatch.of(case, one, rows)
        shape = int(batch.counts.sum()), case.num_labels
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        logits = logits * {"zero": 0.0, "huge": 1e4, "tiny": 1e-30}.get(kind, 1.0)
        if kind == "rising":
            logits = torch.arange(shape[0])[:, None] * 100.0 - torch.arange(shape[1])
        model = GivenLogits(logits.to(dtype))
        batch = replace(_single_precision(case, batch), features=model.features)
        value = total(case.make(model)(*batch.inputs()))
        value.backward()
        assert torch.isfinite(value)
        assert model.logits.grad is not None
        assert torch.isfinite(model.logits.grad).all()

    @pytest.mark.parametrize("kind", ["autocast", "model"])
    def test_bfloat16_is_close_to_float32(self, case: ScoreCase, batch: PairBatch, kind: str) -> None:
        """The value within a tenth, the gradient's direction within 0.95 as a cosine; nothing is infinite."""
        batch = _single_precision(case, batch)
        models = [TinyReranker(case.num_labels).bfloat16().float() for _ in range(2)]
        precise, rough = (case.build(model).float() for model in models)
        if kind == "model":
            rough = rough.bfloat16()
            precise.load_state_dict(rough.state_dict())  # rounded weights in both
        wanted = total(precise(*batch.inputs()))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            found = total(rough(*batch.inputs()))
        torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
        directions = gradient(found, rough).float(), gradient(wanted, precise)
        assert torch.isfinite(directions[0]).all()
        assert torch.cosine_similarity(*directions, dim=0) > 0.95

    @pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
    def test_kinds_of_labels(
        self, case: ScoreCase, loss: ScoreLoss, batch: PairBatch, kind: torch.dtype
    ) -> None:
        """Only the values of labels count, not their dtype; a loss without labels ignores them."""
        features, _ = batch.inputs(labels=False)
        if case.labels == "none" and not loss.labels.startswith("optional"):
            assert total(loss(features, torch.ones(3))) == total(loss(features))
        if case.labels not in ("score", "binary", "class"):
            return
        whole = torch.arange(ROWS) % 2
        wanted = total(loss(features, whole.to(DOUBLE)))
        torch.testing.assert_close(total(loss(features, whole.to(kind))), wanted, check_dtype=False)
        close(total(loss(features, whole.to(DOUBLE)[:, None])), wanted)

    def test_texts_give_what_their_features_give(
        self, case: ScoreCase, loss: ScoreLoss, model: TinyReranker, batch: PairBatch
    ) -> None:
        """A call with text columns scores the same pairs, in the order that the loss asks for."""
        queries, documents = _texts(batch.counts, case.columns, loss.lists)
        torch.manual_seed(7)
        mine = total(loss([queries, *documents], batch.labels))
        torch.manual_seed(7)
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        chosen = loss.pairing(ROWS, case.columns - 1, rng)
        if loss.lists:
            pairs = [(q, text) for q, own in zip(queries, documents[0], strict=True) for text in own]
        elif chosen is None:
            pairs = [(q, column[row]) for row, q in enumerate(queries) for column in documents]
        else:
            places = zip(chosen.row, chosen.column, chosen.other, strict=True)
            pairs = [(queries[row], documents[column][other]) for row, column, other in places]
        close(mine, total(loss(*replace(batch, features=model.tokenize(pairs)).inputs())))

    def test_wrong_number_of_columns_raises(self, loss: ScoreLoss) -> None:
        """One text column too few or too many raises an error with both numbers."""
        least, most = loss.text_columns
        for number in [least - 1, *([most + 1] if most else [])]:
            with pytest.raises(ValueError, match=f"needs .* text columns; found {number}"):
                loss([["w1 w2", "w3"]] * number, torch.ones(2))

    def test_columns_of_unequal_rows_raise(self, case: ScoreCase, loss: ScoreLoss) -> None:
        """All text columns of a batch have the same number of rows."""
        queries, documents = _texts(LISTS if loss.lists else LISTS[:4], case.columns, loss.lists)
        with pytest.raises(ValueError, match="same number of rows"):
            loss([queries[1:], *documents])

    def test_rows_without_pairs_raise(self, loss: ScoreLoss, batch: PairBatch) -> None:
        """Every query has a document; the error names the row that has none."""
        counts = batch.counts.copy()
        counts[2] = 0
        with pytest.raises(ValueError, match=r"at least one document .*found none in row\(s\) \[2\]"):
            loss(*replace(batch, counts=counts).inputs())

    def test_wrong_labels_raise(self, case: ScoreCase, loss: ScoreLoss, batch: PairBatch) -> None:
        """Labels of another type, shape or range raise an error that names what was found."""
        features, labels = batch.inputs()
        for wrong, found in _wrong_labels(case, labels, loss.labels.startswith("optional")):
            with pytest.raises(ValueError, match=rf"needs .*found .*{found}"):
                loss(features, wrong)

    def test_another_number_of_labels_of_the_model_raises(self, case: ScoreCase) -> None:
        """A loss says which models it takes; a model of single texts is none."""
        with pytest.raises(ValueError, match="needs a model that scores pairs"):
            case.make(nn.Linear(2, 2))
        model = TinyReranker(1 if case.num_labels > 1 else 3)
        with pytest.raises(ValueError, match=f"needs a model with .*found num_labels={model.num_labels}"):
            case.make(model)

    def test_can_be_pickled(self, loss: ScoreLoss, batch: PairBatch) -> None:
        """A loss that was pickled and loaded again returns the same value."""
        other = pickle.loads(pickle.dumps(loss))
        assert total(other(*batch.inputs())) == total(loss(*batch.inputs()))

    def test_options_are_plain_values(self, loss: ScoreLoss) -> None:
        """The options that the model card shows are JSON values."""
        json.dumps(loss.get_config_dict())


def _single_precision(case: ScoreCase, batch: PairBatch) -> PairBatch:
    """The batch with labels of float32; classes stay whole."""
    if batch.labels is None or case.labels == "class":
        return batch
    return replace(batch, labels=batch.labels.float())


def _texts(counts: NDArray[np.int64], columns: int, lists: bool) -> tuple[list[str], list[list[Any]]]:
    """Queries, and columns of documents or of lists of documents."""
    rows = len(counts)
    queries = [f"w{row + 1} w{row + 2}" for row in range(rows)]
    if lists:
        return queries, [[[f"w{row + place + 5}" for place in range(n)] for row, n in enumerate(counts)]]
    return queries, [
        [f"w{row + column + 9} w{row + 3}" for row in range(rows)] for column in range(1, columns)
    ]


def _wrong_labels(case: ScoreCase, right: Tensor | None, optional: bool) -> list[tuple[Any, str]]:
    """Labels for which a loss must raise, each with a pattern of the error message."""
    if right is None:
        return []
    nan = right.double().clone()
    nan[4 if case.labels == "lists" else 3] = torch.nan
    wrong: list[tuple[Any, str]] = [
        (right[1:], rf"\({ROWS - 1}\D"),
        (right.to(torch.complex64), "complex64"),
        (nan, "0 label" if case.labels == "lists" else r"NaN in row\(s\) \[3\]"),
    ]
    wrong += [] if optional else [(None, "NoneType")]
    wrong += [(right.tolist(), "list")] if right.ndim == 1 else []
    wrong += [(right + 0.5, "0.5")] if case.labels == "class" else []
    wrong += [(right * 2, "2.0")] if case.labels == "binary" else []
    wrong += [(right[:, :1].repeat(1, 7), r"7\)")] if case.labels in ("margins", "candidates") else []
    if case.labels == "lists":
        hole = right.clone()
        hole[4, 1] = torch.nan
        wrong += [(hole, r"NaN before a number in row\(s\) \[4\]"), (right[:, 0], r"shape \(12,\)")]
        wrong += [(right.nan_to_num(1.0), r"7 label\(s\) for 3 document\(s\) in row 0")]
    return wrong
