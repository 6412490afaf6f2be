"""Losses around losses: on fewer dimensions and fewer layers, beside the peer's on the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ray_st import losses
from ray_st.losses.parts import total

TEXTS = [
    ["the weather is good", "a man eats pasta", "sunny", "is the document bad"],
    ["it is sunny", "the man eats", "the weather is sunny and good, it is not bad to eat", "bad text"],
]
SCORES = torch.tensor([0.9, 0.8, 0.1, 0.4])
INNER = {
    "ranking": (lambda m, model: m.MultipleNegativesRankingLoss(model), None),
    "cosent": (lambda m, model: m.CoSENTLoss(model), SCORES),
}
CACHED = {
    **INNER,
    "cached": (lambda m, model: m.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3), None),
    "softmax": (lambda m, model: m.SoftmaxLoss(model, 32, 2), torch.tensor([0, 1, 1, 0])),
    "tension": (lambda m, model: m.ContrastiveTensionLoss(model), None),
    "gist": (lambda m, model: m.GISTEmbedLoss(model, model), None),
    "orthogonal": (lambda m, model: m.GlobalOrthogonalRegularizationLoss(model), None),
    "projected": (lambda m, model: m.EmbedDistillLoss(model, projection_dim=5), torch.randn(4, 5)),
}
MODIFIERS = {
    "matryoshka": lambda m, model, loss: m.MatryoshkaLoss(model, loss, [32, 8]),
    "layers": lambda m, model, loss: m.AdaptiveLayerLoss(
        model, loss, n_layers_per_step=-1, prior_layers_weight=0.7, layer_weighting="log"
    ),
    "both": lambda m, model, loss: m.Matryoshka2dLoss(
        model, loss, [32, 8], n_layers_per_step=-1, n_dims_per_step=-1, kl_div_weight=0.5
    ),
}


def value_and_gradients(loss: Any, model: Any, labels: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    value = total(loss([model.tokenize(texts) for texts in TEXTS], labels))
    value.backward()
    return value.item(), {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("inner", INNER)
def test_value_and_gradient_are_the_peers(modifier, inner, tiny_model, tiny_folder, peer) -> None:
    from sentence_transformers.sentence_transformer import losses as peers

    make, labels = INNER[inner]
    other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    mine = value_and_gradients(
        MODIFIERS[modifier](losses, tiny_model, make(losses, tiny_model)), tiny_model, labels
    )
    theirs = value_and_gradients(MODIFIERS[modifier](peers, other, make(peers, other)), other, labels)
    assert mine[0] == pytest.approx(theirs[0], abs=1e-5)
    assert len(mine[1]) == len(theirs[1])
    for one, two in zip(mine[1].values(), theirs[1].values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("modifier", ["both", "matryoshka of layers"])
@pytest.mark.parametrize("inner", CACHED)
def test_composes_with_every_kind_and_with_the_cache(modifier, inner, tiny_model) -> None:
    make, labels = CACHED[inner]
    tiny_model.double()

    def loss(mini_batch_size: int | None) -> Any:
        torch.manual_seed(0)
        inside = make(losses, tiny_model).double()
        inside.cache(mini_batch_size)
        if modifier == "matryoshka of layers":
            return losses.MatryoshkaLoss(tiny_model, MODIFIERS["layers"](losses, tiny_model, inside), [32, 8])
        return MODIFIERS[modifier](losses, tiny_model, inside)

    plain = value_and_gradients(loss(None), tiny_model, labels)
    cached = value_and_gradients(loss(3), tiny_model, labels)
    assert plain[0] == pytest.approx(cached[0], abs=1e-10)
    assert plain[1].keys() == cached[1].keys()
    for one, two in zip(plain[1].values(), cached[1].values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["autocast", "model"])
@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("inner", [name for name in CACHED if name != "gist"])  # its guide decides near ties
def test_bfloat16_is_close_to_float32(modifier, inner, kind, tiny_model) -> None:
    """The value within a tenth, the gradient's direction within 0.9 as a cosine; nothing is infinite."""
    make, labels = CACHED[inner]
    torch.manual_seed(0)
    loss = MODIFIERS[modifier](losses, tiny_model, make(losses, tiny_model))
    value, wanted = value_and_gradients(loss, tiny_model, labels)
    if kind == "model":
        loss.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        found, gradients = value_and_gradients(loss, tiny_model, labels)
    assert found == pytest.approx(value, rel=0.1, abs=0.05)
    directions = [torch.cat([g.float().reshape(-1) for g in part.values()]) for part in (gradients, wanted)]
    assert torch.isfinite(directions[0]).all()
    assert torch.cosine_similarity(*directions, dim=0) > 0.9


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_order_of_rows_does_not_matter(modifier, tiny_model) -> None:
    loss = MODIFIERS[modifier](losses, tiny_model, losses.CoSENTLoss(tiny_model))
    features, order = [tiny_model.tokenize(texts) for texts in TEXTS], torch.tensor([2, 0, 3, 1])
    turned = [{key: value[order] for key, value in column.items()} for column in features]
    torch.testing.assert_close(loss(features, SCORES), loss(turned, SCORES[order]))


def test_the_model_runs_once_for_all_dimensions(encoder, make_features) -> None:
    features = make_features(2, 6)
    inner = losses.MultipleNegativesRankingLoss(encoder)
    inner(features)
    alone = len(encoder.calls)
    losses.MatryoshkaLoss(encoder, inner, [6, 4, 2])(features)
    assert len(encoder.calls) == 2 * alone


def test_choices_are_a_function_of_the_number_of_steps(encoder, make_features) -> None:
    features = make_features(2, 6)

    def made() -> nn.Module:
        return losses.MatryoshkaLoss(
            encoder, losses.MultipleNegativesRankingLoss(encoder), [6, 5, 4, 3, 2], n_dims_per_step=1
        )

    first, second = made(), made()
    values = [first(features).item() for _ in range(10)]
    assert len(set(values)) > 2
    torch.manual_seed(5)  # as other ranks may be elsewhere in their random numbers
    assert [second(features).item() for _ in range(4)] == values[:4]
    with torch.no_grad():
        second(features)  # an evaluation chooses without moving on
    resumed = made()
    resumed.load_state_dict(copy.deepcopy(second.state_dict()))
    assert [resumed(features).item() for _ in range(6)] == values[4:]


class Idle:
    """The gather of a rank without rows."""

    idle = True

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        return rows, 0


@pytest.mark.parametrize("modifier", ["matryoshka of layers", "layers of matryoshka"])
def test_a_rank_without_rows_counts_its_samples_too(modifier: str, tiny_model: Any) -> None:
    """Whatever it samples next is what the other ranks sample, without asking them."""

    def made() -> Any:
        inner = losses.MultipleNegativesRankingLoss(tiny_model)
        if modifier == "layers of matryoshka":
            return losses.Matryoshka2dLoss(tiny_model, inner, [32, 16, 8])
        layers = losses.AdaptiveLayerLoss(tiny_model, inner)
        return losses.MatryoshkaLoss(tiny_model, layers, [32, 16, 8], n_dims_per_step=2)

    def counts(loss: Any) -> list[int]:
        return [int(loss.choices), int(loss.loss.choices)]

    busy, idle = made(), made()
    idle.bind(Idle())
    features = [tiny_model.tokenize(texts) for texts in TEXTS]
    for _ in range(2):
        busy(features)
        idle(features)
    assert counts(idle) == counts(busy)
    assert min(counts(busy)) >= 2


def test_layers_leave_the_model_as_it_was(tiny_model) -> None:
    before = tiny_model.encode(TEXTS[0])
    loss = losses.AdaptiveLayerLoss(tiny_model, losses.MultipleNegativesRankingLoss(tiny_model))
    loss([tiny_model.tokenize(texts) for texts in TEXTS]).backward()
    assert not tiny_model[0].auto_model.config.output_hidden_states
    assert (tiny_model.encode(TEXTS[0]) == before).all()
    assert loss.number_of_layers == 2


def test_labels_and_columns_are_those_of_the_inner_loss(encoder, make_features) -> None:
    loss = losses.MatryoshkaLoss(encoder, losses.CoSENTLoss(encoder), [6])
    assert (loss.text_columns, loss.labels) == ((2, 2), "float score")
    with pytest.raises(ValueError, match="CoSENTLoss needs labels"):
        loss(make_features(2, 4))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"matryoshka_dims": []}, "at least one"),
        ({"matryoshka_dims": [4, 0]}, r"\[4, 0\]"),
        ({"matryoshka_dims": [7, 6]}, "at most the model's 6; got 7"),
        ({"matryoshka_dims": [6], "matryoshka_weights": [1, 2]}, "as many"),
    ],
)
def test_wrong_dimensions_are_refused(options, found, encoder) -> None:
    with pytest.raises(ValueError, match=found):
        losses.MatryoshkaLoss(encoder, losses.CoSENTLoss(encoder), **options)


def test_a_missing_full_dimension_is_said(encoder, caplog) -> None:
    losses.MatryoshkaLoss(encoder, losses.CoSENTLoss(encoder), [4])
    assert "6 is not among" in caplog.text


def test_plain_modules_and_flat_models_are_refused(encoder, tiny_model) -> None:
    with pytest.raises(ValueError, match=r"needs a loss made of ray_st\.losses\.Loss; found Linear"):
        losses.MatryoshkaLoss(encoder, nn.Linear(2, 2), [6])
    with pytest.raises(ValueError, match="several layers; TinyEncoder has none"):
        losses.AdaptiveLayerLoss(encoder, losses.CoSENTLoss(encoder))
    with pytest.raises(ValueError, match="layer_weighting must be one of"):
        losses.AdaptiveLayerLoss(tiny_model, losses.CoSENTLoss(tiny_model), layer_weighting="square")
