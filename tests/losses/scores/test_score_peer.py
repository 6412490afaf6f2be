"""The losses of rerankers are the peer's: on one model and the same texts, in value, gradient, options and card."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_st.losses import scores
from ray_st.testing.loss_conformance import LABELS
from score_cases import CASES

CLASSES = [name for name in scores.__all__ if name.endswith("Loss")]
CLASSES = [name for name in CLASSES if name not in ("ScoreLoss", "ListLoss", "ReducedLoss")]
ROWS = 5
DOCUMENTS = [2, 4, 1, 3, 2]


@pytest.fixture(scope="module")
def peers(peer: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers.cross_encoder import losses
    return losses


class Wrapped(nn.Module):
    """The peer's model with the names that our losses ask for."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs, self.num_labels = theirs, theirs.num_labels

    def tokenize(self, pairs: Any) -> Mapping[str, Tensor]:
        return dict(self.theirs.preprocess(pairs))

    def forward(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.theirs(dict(features))


def _texts(columns: int, lists: bool) -> list[Any]:
    words = ["weather", "sunny", "man", "eats", "pasta", "good", "bad", "query", "text"]

    def text(seed: int) -> str:
        return " ".join(words[(seed * 5 + i * i) % len(words)] for i in range(2 + seed % 4))

    queries = [text(row) for row in range(ROWS)]
    if lists:
        return [queries, [[text(7 * row + 3 * i + 1) for i in range(n)] for row, n in enumerate(DOCUMENTS)]]
    return [queries, *([text(row * 3 + column * 11) for row in range(ROWS)] for column in range(1, columns))]


def _labels(kind: str, columns: int) -> Any:
    if kind != "lists":
        return LABELS[kind](ROWS, columns)
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 4, (n,), generator=generator).double() / 2 for n in DOCUMENTS]


@pytest.mark.parametrize("name", [name for name in CASES if name != "mnrl drawn"])  # which draws otherwise
def test_value_and_gradient_are_the_peers(name: str, peers: Any, peer: Any, tiny_encoder: Path) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peer.CrossEncoder(str(tiny_encoder), num_labels=case.num_labels, device="cpu")
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    model.train()
    texts = _texts(case.columns, case.labels == "lists")
    labels = _labels(case.labels, case.columns)
    labels = labels.float() if isinstance(labels, Tensor) and case.labels != "class" else labels
    found = []
    for loss in (case.made(peers, model), case.made(scores, Wrapped(model))):
        model.zero_grad()
        value = loss([list(column) for column in texts], labels)
        value.backward()
        found.append((value.detach(), {n: w.grad for n, w in model.named_parameters() if w.grad is not None}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for weight, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][weight], gradient, rtol=1e-4, atol=1e-6)


def test_all_losses_of_the_peer_are_there(peers: Any) -> None:
    assert set(peers.__all__) <= set(scores.__all__)
    assert {name for name in peers.__all__ if name.endswith("Loss")} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_options_have_the_peers_order_and_defaults(name: str, peers: Any) -> None:
    theirs, ours = (
        list(inspect.signature(getattr(module, name).__init__).parameters.values())
        for module in (peers, scores)
    )
    assert [p.name for p in theirs] == [p.name for p in ours]
    for their, our in zip(theirs, ours, strict=True):
        if isinstance(their.default, nn.Module):
            assert type(our.default).__name__ == type(their.default).__name__
        else:
            assert our.default == their.default, our.name


@pytest.mark.parametrize("name", CLASSES)
def test_every_loss_says_what_it_needs(name: str) -> None:
    text = getattr(scores, name).__doc__
    assert "Inputs" in text
    assert all(option in text for option in inspect.signature(getattr(scores, name)).parameters)


@pytest.mark.parametrize("name", CASES)
def test_describes_itself_as_the_peer_does(name: str, peers: Any, peer: Any, tiny_encoder: Path) -> None:
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peer.CrossEncoder(str(tiny_encoder), num_labels=case.num_labels, device="cpu")
    theirs, mine = case.made(peers, model), case.made(scores, Wrapped(model))
    options = (
        theirs.get_config_dict() if hasattr(theirs, "get_config_dict") else {"activation_fn": "Identity"}
    )
    for key, value in options.items():
        wanted = value.rpartition(".")[2] if isinstance(value, str) else value
        found = mine.get_config_dict()[key]
        assert found == wanted or (key == "activation_fn" and wanted == "NoneType" and found == "Identity")
    assert mine.get_config_dict().keys() == options.keys()
    key = theirs.citation.split("{")[1].split(",")[0] if hasattr(theirs, "citation") else ""
    assert key in mine.citation
    assert bool(key) == bool(mine.citation)
