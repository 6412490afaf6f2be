"""The contract of every loss, as one class of tests."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.losses.modifier import Modifier
from ray_st.losses.parts import total
from ray_st.losses.tiles import TILE_SCORES
from ray_st.testing.tiny_encoder import DIM, Features, TinyEncoder, gradient, token_columns

DOUBLE = torch.float64
ROWS = 12
"""Rows of the batch that most tests use."""
WIDE = 9
"""Dimensions of embeddings of a teacher that are not as wide as the model's."""


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def _scores(rows: int, columns: int) -> Tensor:
    return torch.randint(0, 4, (rows,), generator=torch.Generator().manual_seed(1)).to(DOUBLE) / 3


LABELS: dict[str, Callable[[int, int], Tensor | None]] = {
    "none": lambda rows, columns: None,
    "score": _scores,
    "class": lambda rows, columns: torch.arange(rows) * 5 % 3,
    "binary": lambda rows, columns: (torch.arange(rows) % 2).to(DOUBLE),
    "margins": lambda rows, columns: _random(rows, columns - 2),
    "candidates": lambda rows, columns: _random(rows, columns - 1),
    "teacher": lambda rows, columns: _random(rows, DIM),
    "teacher columns": lambda rows, columns: _random(rows, columns, DIM),
    "teacher wide": lambda rows, columns: _random(rows, WIDE),
}
"""Labels by kind, made for a number of rows and of text columns: none; a number from 0 to 1; one of three
classes; 0 or 1; a score for each negative, or for each text but the first; a teacher's embedding, one for
each column, or of another width."""


@dataclass(frozen=True)
class LossCase:
    """A loss under test, and the rows that it is given.

    Args:
        make: Makes the loss around a model, which is a :class:`ray_st.testing.TinyEncoder`.
        columns: Number of text columns.
        labels: What the labels are: a key of :data:`LABELS`.
        pooled: Whether the loss sees other workers' rows when it is made with ``gather_across_devices``.
        embedded: Columns of embeddings that ``compute`` gets; None for as many as there are text columns.
        least_rows: Least number of rows in a batch; the loss raises for fewer.
        unlabelled_call: Whether a call without labels is valid.
    """

    make: Callable[[nn.Module], Loss]
    columns: int = 2
    labels: str = "none"
    pooled: bool = False
    embedded: int | None = None
    least_rows: int = 1
    unlabelled_call: bool = False

    def build(self, model: nn.Module) -> Loss:
        """The loss in double precision; its own weights are the same every time."""
        torch.manual_seed(0)
        return self.make(model).double()

    def labels_of(self, rows: int = ROWS) -> Tensor | None:
        """Labels of some rows."""
        return LABELS[self.labels](rows, self.columns)


class LossConformance:
    """Tests of a loss; a subclass defines the fixture ``case``.

    Value and gradient depend on the batch alone, not on how it is split, ordered, chunked or cached. Extreme
    embeddings give finite values; invalid input raises an error that names the problem.
    """

    @pytest.fixture
    def case(self) -> LossCase:
        """The loss under test."""
        raise NotImplementedError("define the fixture `case`: it returns a ray_st.testing.LossCase")

    @pytest.fixture
    def encoder(self) -> TinyEncoder:
        """The model that the loss is made with."""
        return TinyEncoder()

    @pytest.fixture
    def loss(self, case: LossCase, encoder: TinyEncoder) -> Loss:
        """The loss, in double precision."""
        return case.build(encoder)

    @pytest.fixture
    def features(self, case: LossCase) -> list[Features]:
        """The text columns of the batch."""
        return token_columns(case.columns, ROWS)

    def test_the_gradient_reaches_the_model(
        self, case: LossCase, loss: Loss, encoder: TinyEncoder, features: list[Features]
    ) -> None:
        """A loss without a gradient trains nothing."""
        assert gradient(total(loss(features, case.labels_of())), encoder).abs().max() > 1e-6

    def test_order_of_rows_does_not_matter(
        self, case: LossCase, loss: Loss, features: list[Features]
    ) -> None:
        """Value and gradient do not depend on the order of the rows."""
        labels, order = case.labels_of(), torch.randperm(ROWS)
        mine = total(loss(features, labels))
        turned = total(loss(rows_of(features, order), None if labels is None else labels[order]))
        close(mine, turned)
        close(gradient(mine, loss), gradient(turned, loss))

    @pytest.mark.parametrize("sizes", [[6, 6], [1] * 12, [7, 5, 0]])
    def test_slices_with_a_shared_pool_are_the_whole(
        self, case: LossCase, loss: Loss, features: list[Features], sizes: list[int]
    ) -> None:
        """The mean of workers' losses, weighted by rows, is the loss of the batch, in value and gradient."""
        labels = case.labels_of()
        assert not loss.gather_across_devices
        whole = total(loss(features, labels))
        gather_on(loss, case.pooled)
        recorder = Recorder()
        loss.bind(recorder)
        close(total(loss(features, labels)), whole)
        assert len(recorder.seen) >= case.pooled
        value, offset = torch.zeros((), dtype=DOUBLE), 0
        for size in sizes:
            chosen = slice(offset, offset + size) if size else slice(0, 1)  # an idle rank holds a filler
            pool = SharedPool(recorder.seen, offset, idle=size == 0)
            loss.bind(pool)
            part = total(loss(rows_of(features, chosen), None if labels is None else labels[chosen]))
            assert not pool.pools
            value, offset = value + part * size / ROWS, offset + size
        close(value, whole)
        close(gradient(value, loss), gradient(whole, loss))

    def test_idle_rank_gives_a_joined_zero(
        self, case: LossCase, loss: Loss, features: list[Features]
    ) -> None:
        """A worker without rows in a step returns zero, and its backward pass still joins the collectives."""
        labels = case.labels_of()
        gather_on(loss, case.pooled)
        recorder = Recorder()
        loss.bind(recorder)
        loss(features, labels)
        pools = [p.detach().requires_grad_() if p.requires_grad else p for p in recorder.seen]
        loss.own_weight = nn.Parameter(torch.tensor(torch.inf, dtype=DOUBLE))
        loss.bind(SharedPool(pools, 0, idle=True))
        value = loss(rows_of(features, slice(0, 1)), None if labels is None else labels[:1])
        assert total(value).item() == 0
        assert isinstance(value, Tensor) or list(value) == list(loss.parts)
        total(value).backward()
        used = [weight for name, weight in loss.named_parameters() if not name.endswith("types")]
        assert all(weight.grad is not None and not weight.grad.any() for weight in used)
        joined = [pool for pool in pools if pool.requires_grad]
        assert len(joined) == case.pooled
        assert all(pool.grad is not None and not pool.grad.any() for pool in joined)

    def test_every_fast_path_is_plain(
        self, case: LossCase, loss: Loss, encoder: TinyEncoder, features: list[Features]
    ) -> None:
        """Chunks, the gradient cache and tiles change neither value nor gradient."""
        labels, inner = case.labels_of(), innermost(loss)
        take_path(inner)
        whole = total(loss(features, labels))
        for name, path in FAST_PATHS.items():
            take_path(inner, **path)
            encoder.calls.clear()
            fast = total(loss(features, labels))
            assert name == "tiles" or len(encoder.calls) > case.columns
            close(fast, whole)
            close(gradient(fast, loss), gradient(whole, loss))
            with torch.no_grad():
                close(total(loss(features, labels)), whole)

    @pytest.mark.parametrize("kind", ["zero", "same", "huge", "tiny", "opposite", "one row"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_finite_on_extreme_embeddings(
        self, case: LossCase, loss: Loss, kind: str, dtype: torch.dtype
    ) -> None:
        """Value and gradient are finite for extreme embeddings."""
        rows = case.least_rows if kind == "one row" else 5
        leaves = [column.to(dtype).detach().requires_grad_() for column in extreme(kind, rows, case)]
        labels = case.labels_of(rows)
        guide = Columns.local(
            [torch.randn(rows, 3, generator=torch.Generator().manual_seed(9))] * len(leaves)
        )
        tokens = {"input_ids": torch.ones(rows, 2), "attention_mask": torch.ones(rows, 2)}
        found = Columns.local(leaves, labels if labels is None or case.labels == "class" else labels.float())
        value = total(loss.compute(replace(found, guide=guide, features=(tokens, tokens))))
        value.backward()
        assert torch.isfinite(value)
        assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves)

    @pytest.mark.parametrize("kind", ["autocast", "model"])
    def test_bfloat16_is_close_to_float32(self, case: LossCase, features: list[Features], kind: str) -> None:
        """The value within a tenth, the gradient's direction within 0.95 as a cosine; nothing is infinite."""
        labels = case.labels_of()
        labels = labels.float() if labels is not None and case.labels != "class" else labels
        precise, rough = (case.build(TinyEncoder().bfloat16().float()).float() for _ in range(2))
        if kind == "model":
            rough = rough.bfloat16()
            precise.load_state_dict(rough.state_dict())  # rounded weights in both
        wanted = total(precise(features, labels))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            found = total(rough(features, labels))
        torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
        directions = gradient(found, rough).float(), gradient(wanted, precise)
        assert torch.isfinite(directions[0]).all()
        assert torch.cosine_similarity(*directions, dim=0) > 0.95

    @pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
    def test_kinds_of_labels(
        self, case: LossCase, loss: Loss, features: list[Features], kind: torch.dtype
    ) -> None:
        """Only the values of labels count, not their dtype; a loss without labels ignores them."""
        if case.labels == "none" and not loss.labels.startswith("optional"):
            assert total(loss(features, torch.ones(3))) == total(loss(features))
        if case.labels not in ("score", "binary", "class"):
            return
        whole = torch.arange(ROWS) % 2
        wanted = total(loss(features, whole.to(DOUBLE)))
        torch.testing.assert_close(total(loss(features, whole.to(kind))), wanted, check_dtype=False)
        close(total(loss(features, whole.to(DOUBLE)[:, None])), wanted)

    def test_wrong_number_of_columns_raises(self, case: LossCase, loss: Loss) -> None:
        """One text column too few or too many raises an error with both numbers."""
        least, most = loss.text_columns
        wrong = [least - 1, *([most + 1] if most else [])]
        for number in wrong:
            with pytest.raises(ValueError, match=f"needs .* text columns; found {number}"):
                loss(token_columns(number, 3), case.labels_of(3))

    def test_wrong_labels_raise(self, case: LossCase, loss: Loss, features: list[Features]) -> None:
        """Labels of another type, shape or range raise an error that names what was found."""
        for labels, found in wrong_labels(case, loss.labels.startswith("optional")):
            with pytest.raises(ValueError, match=rf"needs .*found .*{found}"):
                loss(features, labels)

    def test_columns_of_unequal_rows_raise(
        self, case: LossCase, loss: Loss, features: list[Features]
    ) -> None:
        """All text columns of a batch have the same number of rows."""
        if case.columns == 1:
            return
        features[1] = rows_of(features[1:2], slice(0, 3))[0]
        with pytest.raises(ValueError, match="same number of rows"):
            loss(features, case.labels_of())

    def test_can_be_pickled(self, case: LossCase, loss: Loss, features: list[Features]) -> None:
        """A loss that was pickled and loaded again returns the same value."""
        other = pickle.loads(pickle.dumps(loss))
        labels = case.labels_of()
        assert total(other(features, labels)) == total(loss(features, labels))

    def test_options_are_plain_values(self, loss: Loss) -> None:
        """The options that the model card shows are JSON values."""
        json.dumps(loss.get_config_dict())


FAST_PATHS: dict[str, dict[str, int]] = {
    "chunks": {"token_budget": 11},
    "cached rows": {"mini_batch_size": 4},
    "cached tokens": {"mini_batch_num_tokens": 25},
    "tiles": {"tile_scores": 60},
    "all": {"token_budget": 30, "mini_batch_size": 3, "tile_scores": 1},
}
"""Ways to compute a loss that must not change its value."""


def take_path(
    loss: Loss,
    token_budget: int = 10**9,
    mini_batch_size: int | None = None,
    mini_batch_num_tokens: int | None = None,
    tile_scores: int = TILE_SCORES,
) -> None:
    """Chooses how a loss is computed; by default with one call of the model and nothing cached."""
    loss.cache(mini_batch_size, mini_batch_num_tokens)
    loss.token_budget, loss.tile_scores = token_budget, tile_scores


def innermost(loss: Loss) -> Loss:
    """The loss that embeds, under all modifiers."""
    while isinstance(loss, Modifier):
        loss = loss.loss
    return loss


def gather_on(loss: Loss, on: bool) -> None:
    """Turns gathering on in the loss that has the option, under all modifiers."""
    innermost(loss).gather_across_devices = on


class Recorder:
    """Acts as a single rank with the whole batch, and records what it is asked to gather."""

    idle = False

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """Returns the rows unchanged."""
        self.seen.append(rows)
        return rows, 0


class SharedPool:
    """Simulates one rank of a cluster in a single process: returns the recorded rows of the whole batch.

    Args:
        pools: What :class:`Recorder` recorded.
        offset: Index of this rank's first row.
        idle: Whether this rank holds only a filler row.
    """

    def __init__(self, pools: Sequence[Tensor], offset: int, idle: bool = False) -> None:
        self.pools, self.offset, self.idle = list(pools), offset, idle

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """Returns the rows of the whole batch, and the index of this rank's first one."""
        pool = self.pools.pop(0)
        mine = pool[self.offset : self.offset + len(rows)]
        assert self.idle or torch.allclose(mine.double(), rows.double(), atol=1e-9)
        return pool, self.offset


def rows_of(features: Sequence[Mapping[str, Any]], chosen: slice | Tensor) -> list[Features]:
    """Some rows of each text column."""
    return [{key: value[chosen] for key, value in column.items()} for column in features]


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    """Asserts that two tensors are equal within a tolerance."""
    torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


def extreme(kind: str, rows: int, case: LossCase) -> list[Tensor]:
    """Embeddings that break numerically careless formulas, for each column that ``compute`` gets."""
    number = case.embedded or case.columns
    columns = [torch.randn(rows, DIM, generator=torch.Generator().manual_seed(c)) for c in range(number)]
    change = {"zero": 0.0, "huge": 1e4, "tiny": 1e-30}.get(kind, 1.0)
    if kind == "same":
        columns = [columns[0][:1].expand(rows, -1)] * number
    if kind == "opposite":
        columns[1:] = [-columns[0]] * (number - 1)
    return [column * change for column in columns]


def wrong_labels(case: LossCase, optional: bool) -> list[tuple[Any, str]]:
    """Labels for which a loss must raise, each with a pattern of the error message."""
    right = case.labels_of()
    if right is None:
        return []
    nan = right.double().clone()
    nan[3] = torch.nan
    wrong: list[tuple[Any, str]] = [
        (right.tolist(), "list"),
        (right[1:], rf"\({ROWS - 1}\D"),
        (right.to(torch.complex64), "complex64"),
        (nan, r"NaN in row\(s\) \[3\]"),
    ]
    wrong += [] if optional or case.unlabelled_call else [(None, "NoneType")]
    wrong += [(right + 0.5, "0.5")] if case.labels == "class" else []
    wrong += [(right * 2, "2.0")] if case.labels == "binary" else []
    wrong += [(right[:, :1].repeat(1, 7), r"7\)")] if case.labels in ("margins", "candidates") else []
    wrong += [(right.reshape(ROWS, 1, 1, -1), r"\(12, 1, 1")] if case.labels.startswith("teacher") else []
    return wrong
