"""What every loss must keep: one class that each of them goes through. A new loss adds its cases to ``CASES``."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_st import losses
from ray_st.losses.base import Loss
from ray_st.losses.columns import Columns
from ray_st.util import dot_score, pairwise_dot_score

DOUBLE = torch.float64
ROWS = 12


@dataclass(frozen=True)
class Case:
    """One loss with options, what it is in a few slow lines, and the peer's way to write the options."""

    loss: str
    brute: Callable[..., Tensor]
    columns: int
    options: Callable[[Any], dict[str, Any]] = lambda _: {}  # of the module of losses, ours or the peer's
    scores: bool = False
    pooled: bool = False


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([(x @ y) / (x.norm() * y.norm()) for x, y in zip(a, b, strict=True)])


def ranking(columns: list[Tensor], _: Any, scale: float = 20.0, cosine: bool = True) -> Tensor:
    candidates = [row for column in columns[1:] for row in column]
    total = 0
    for i, anchor in enumerate(columns[0]):
        norms = [anchor.norm() * c.norm() if cosine else 1 for c in candidates]
        logits = [scale * anchor @ c / norm for c, norm in zip(candidates, norms, strict=True)]
        total = total - torch.log(logits[i].exp() / sum(logit.exp() for logit in logits))
    return total / len(columns[0])


def cosent(columns: list[Tensor], labels: Tensor, scale: float = 20.0, sim: Any = cosines) -> Tensor:
    s, n = scale * sim(*columns), len(labels)
    return torch.log(
        1 + sum((s[i] - s[j]).exp() for i in range(n) for j in range(n) if labels[i] < labels[j])
    )


def regression(columns: list[Tensor], labels: Tensor) -> Tensor:
    return ((cosines(*columns) - labels) ** 2).mean()


def absolute(columns: list[Tensor], labels: Tensor) -> Tensor:
    return (1 / (1 + torch.exp(-cosines(*columns))) - labels).abs().mean()


def triplet(columns: list[Tensor], _: Any, distance: Callable[..., Tensor], margin: float) -> Tensor:
    rows = [distance(a - p) - distance(a - n) for a, p, n in zip(*columns, strict=True)]
    return torch.stack([(row + margin).clamp(min=0) for row in rows]).mean()


def cosine_triplet(columns: list[Tensor], _: Any) -> Tensor:
    a, p, n = columns
    return ((1 - cosines(a, p)) - (1 - cosines(a, n)) + 0.1).clamp(min=0).mean()


CASES = {
    "ranking-pairs": Case("MultipleNegativesRankingLoss", ranking, 2, pooled=True),
    "ranking-triplets": Case("MultipleNegativesRankingLoss", ranking, 3, pooled=True),
    "ranking-tuples": Case("MultipleNegativesRankingLoss", ranking, 5, pooled=True),
    "ranking-dot": Case(
        "MultipleNegativesRankingLoss",
        partial(ranking, scale=0.5, cosine=False),
        3,
        lambda _: {"scale": 0.5, "similarity_fct": dot_score},
        pooled=True,
    ),
    "cosent": Case("CoSENTLoss", cosent, 2, scores=True, pooled=True),
    "cosent-dot": Case(
        "CoSENTLoss",
        partial(cosent, scale=0.3, sim=lambda a, b: (a * b).sum(1)),
        2,
        lambda _: {"scale": 0.3, "similarity_fct": pairwise_dot_score},
        scores=True,
        pooled=True,
    ),
    "cosine": Case("CosineSimilarityLoss", regression, 2, scores=True),
    "cosine-absolute": Case(
        "CosineSimilarityLoss",
        absolute,
        2,
        lambda _: {"loss_fct": nn.L1Loss(), "cos_score_transformation": nn.Sigmoid()},
        scores=True,
    ),
    "triplet": Case("TripletLoss", partial(triplet, distance=lambda x: x.norm(), margin=5), 3),
    "triplet-manhattan": Case(
        "TripletLoss",
        partial(triplet, distance=lambda x: x.abs().sum(), margin=0.7),
        3,
        lambda m: {"distance_metric": m.TripletDistanceMetric.MANHATTAN, "triplet_margin": 0.7},
    ),
    "triplet-cosine": Case(
        "TripletLoss",
        cosine_triplet,
        3,
        lambda m: {"distance_metric": m.TripletDistanceMetric.COSINE, "triplet_margin": 0.1},
    ),
}


def labels_of(case: Case, rows: int = ROWS) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 4, (rows,), generator=generator).to(DOUBLE) / 3 if case.scores else None


class SharedPool:
    """The cluster as one of its ranks sees it, in one process: hands out the whole batch's rows."""

    def __init__(self, pool: Tensor, labels: Tensor | None, offset: int, idle: bool = False) -> None:
        self.pool, self.labels, self.offset, self.idle = pool, labels, offset, idle
        self.asked = 0

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        self.asked += 1
        pool = self.pool if rows.is_floating_point() and rows.ndim == 3 else self.labels
        assert self.idle or torch.equal(
            pool[self.offset : self.offset + len(rows)].round(decimals=9), rows.round(decimals=9)
        )
        return pool, self.offset


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def loss(case: Case, encoder: nn.Module) -> Loss:
    return getattr(losses, case.loss)(encoder, **case.options(losses))


@pytest.fixture
def features(case: Case, make_features: Any) -> list[dict[str, Any]]:
    return make_features(case.columns, ROWS)


def rows_of(features: list[dict[str, Any]], chosen: Any) -> list[dict[str, Any]]:
    return [{key: value[chosen] for key, value in column.items()} for column in features]


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


class TestEveryLoss:
    def test_value_and_gradient_are_the_slow_ones(self, case, loss, encoder, features, gradient_of) -> None:
        labels = labels_of(case)
        mine = loss(features, labels)
        slow = case.brute([encoder(column)["sentence_embedding"] for column in features], labels)
        close(mine, slow)
        close(gradient_of(mine, encoder), gradient_of(slow, encoder))
        assert mine.item() > 0
        assert gradient_of(mine, encoder).abs().max() > 1e-6

    def test_value_and_gradient_are_the_peers(self, case, loss, encoder, features, gradient_of) -> None:
        peers = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
        labels = labels_of(case)
        theirs = getattr(peers, case.loss)(encoder, **case.options(peers))(features, labels)
        mine = loss(features, labels)
        close(mine, theirs, 1e-6 if case.scores else 1e-10)  # the peer takes some labels as float32
        close(gradient_of(mine, encoder), gradient_of(theirs, encoder), 1e-6 if case.scores else 1e-10)

    def test_order_of_rows_does_not_matter(self, case, loss, encoder, features, gradient_of) -> None:
        labels, order = labels_of(case), torch.randperm(ROWS)
        mine = loss(features, labels)
        turned = loss(rows_of(features, order), None if labels is None else labels[order])
        close(mine, turned)
        close(gradient_of(mine, encoder), gradient_of(turned, encoder))

    @pytest.mark.parametrize("sizes", [[12], [6, 6], [4, 4, 4], [1] * 12, [5, 4, 3], [7, 5, 0]])
    def test_slices_with_a_shared_pool_are_the_whole(
        self, case, loss, encoder, features, gradient_of, sizes
    ) -> None:
        labels = labels_of(case)
        whole = loss(features, labels)
        assert case.pooled or not loss.gather_across_devices
        loss.gather_across_devices = case.pooled
        pool = torch.stack(loss.embed(features), dim=1)
        total, offset = torch.zeros((), dtype=DOUBLE), 0
        for size in sizes:
            chosen = slice(offset, offset + size) if size else slice(0, 1)  # an idle rank holds a filler
            gather = SharedPool(pool, labels, offset, idle=size == 0)
            loss.bind(gather)
            part = loss(rows_of(features, chosen), None if labels is None else labels[chosen])
            assert gather.asked == (1 + case.scores if case.pooled else 0)
            total, offset = total + part * size / ROWS, offset + size
        close(total, whole)
        close(gradient_of(total, encoder), gradient_of(whole, encoder))

    def test_idle_rank_gives_a_joined_zero(self, case, loss, features) -> None:
        labels = labels_of(case)
        loss.gather_across_devices = case.pooled
        loss.own_weight = nn.Parameter(torch.tensor(torch.inf, dtype=DOUBLE))
        pool = torch.stack(loss.embed(features), dim=1).detach().requires_grad_()
        loss.bind(SharedPool(pool, labels, 0, idle=True))
        value = loss(rows_of(features, slice(0, 1)), None if labels is None else labels[:1])
        assert value.item() == 0
        value.backward()
        reached = [*loss.parameters(), *([pool] if case.pooled else [])]
        used = [weight for name, weight in loss.named_parameters() if not name.endswith("types")]
        assert all(weight.grad is not None for weight in used)
        assert all(not weight.grad.any() for weight in reached if weight.grad is not None)
        assert not case.pooled or pool.grad is not None

    def test_sorted_and_chunked_is_plain(self, case, loss, encoder, features, gradient_of) -> None:
        labels = labels_of(case)
        loss.token_budget = 10**9
        whole = loss(features, labels)
        loss.token_budget = 11
        encoder.calls.clear()
        cut = loss(features, labels)
        assert len(encoder.calls) > case.columns
        close(cut, whole)
        close(gradient_of(cut, encoder), gradient_of(whole, encoder))

    @pytest.mark.parametrize("kind", ["zero", "same", "huge", "tiny", "opposite", "one row"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_finite_on_extreme_embeddings(self, case, loss, kind, dtype) -> None:
        rows = 1 if kind == "one row" else 5
        columns = [
            torch.randn(rows, 8, generator=torch.Generator().manual_seed(c)) for c in range(case.columns)
        ]
        change = {"zero": 0.0, "huge": 1e4, "tiny": 1e-30}.get(kind, 1.0)
        if kind == "same":
            columns = [columns[0][:1].expand(rows, -1)] * case.columns
        if kind == "opposite":
            columns[1:] = [-columns[0]] * (case.columns - 1)
        leaves = [(column * change).to(dtype).detach().requires_grad_() for column in columns]
        labels = labels_of(case, rows)
        value = loss.compute(Columns.local(leaves, None if labels is None else labels.float()))
        value.backward()
        assert torch.isfinite(value)
        assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves)

    @pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
    def test_kinds_of_labels(self, case, loss, features, kind) -> None:
        if not case.scores:
            assert loss(features, torch.ones(3)) == loss(features)  # not asked for: not looked at
            return
        whole = torch.arange(ROWS) % 2
        torch.testing.assert_close(
            loss(features, whole.to(kind)), loss(features, whole.to(DOUBLE)), check_dtype=False
        )
        close(loss(features, whole.to(DOUBLE)[:, None]), loss(features, whole.to(DOUBLE)))

    def test_wrong_number_of_columns_is_refused(self, case, loss, make_features) -> None:
        least, most = loss.text_columns
        wrong = [least - 1, *([most + 1] if most else [])]
        for number in wrong:
            with pytest.raises(ValueError, match=f"{case.loss} needs .* text columns; found {number}"):
                loss(make_features(number, 3), labels_of(case, 3))

    def test_wrong_labels_are_refused(self, case, loss, features) -> None:
        if not case.scores:
            return
        for wrong, found in [
            (None, "NoneType"),
            ([1.0] * ROWS, "list"),
            (torch.ones(ROWS - 1), rf"\({ROWS - 1},\)"),
            (torch.ones(ROWS, 2), rf"\({ROWS}, 2\)"),
            (torch.ones(ROWS, dtype=torch.complex64), "complex64"),
        ]:
            with pytest.raises(
                ValueError, match=rf"{case.loss} needs labels \(float score\).*found .*{found}"
            ):
                loss(features, wrong)

    def test_columns_of_unequal_rows_are_refused(self, case, loss, features) -> None:
        features[1] = rows_of(features[1:2], slice(0, 3))[0]
        with pytest.raises(ValueError, match="same number of rows"):
            loss(features, labels_of(case))

    def test_can_be_sent_to_a_worker(self, case, loss, features) -> None:
        other = pickle.loads(pickle.dumps(loss))
        assert other(features, labels_of(case)) == loss(features, labels_of(case))

    def test_describes_itself_as_the_peer_does(self, case, loss, encoder) -> None:
        peers = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
        theirs = getattr(peers, case.loss)(encoder, **case.options(peers)).get_config_dict()
        mine = loss.get_config_dict()
        assert mine
        assert mine == {key: theirs[key] for key in mine}
        assert loss.citation.strip().startswith("@") or case.loss == "CosineSimilarityLoss"
