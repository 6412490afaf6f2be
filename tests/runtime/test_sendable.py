"""What cannot be pickled is found before there is a cluster, and named by the way to it."""

from __future__ import annotations

import functools
import re
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.runtime.train.sendable import check_sendable

LOCK = threading.Lock()
ROWS = Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"]})


class Holding(TrainerCallback):
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self, *args: Any) -> Any:
        return self.held


class Slotted:
    __slots__ = ("held", "plain")

    def __init__(self, held: Any) -> None:
        self.held, self.plain = held, 1


class Refusing:
    def __reduce__(self) -> Any:
        raise NotImplementedError("not me")


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.encoder.lock = LOCK  # type: ignore[assignment]


def numbers() -> Any:
    yield 1


def closing_over(held: Any) -> Any:
    return lambda found: {"figure": held}


@pytest.mark.parametrize(
    ("part", "path", "kind"),
    [
        ([Holding(1), Holding(LOCK)], "[1].held", "_thread.lock"),
        ({"b": Holding({"deep": [0, {"x": LOCK}]})}, "['b'].held['deep'][1]['x']", "_thread.lock"),
        (Holding(numbers()), ".held", "generator"),
        (Around(), ".encoder.lock", "_thread.lock"),
        (Slotted(threading.Event()), ".held._cond._lock", "_thread.lock"),
        (Holding(LOCK).method, ".__self__.held", "_thread.lock"),
        (functools.partial(print, 1, sep=LOCK), ".keywords['sep']", "_thread.lock"),
        (closing_over(LOCK), ".held", "_thread.lock"),
        (type("Own", (), {"held": LOCK}), ".held", "_thread.lock"),
        (Refusing(), "", f"{__name__}.Refusing"),
        (np.array([LOCK], dtype=object), "", "numpy.ndarray"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_the_way_to_what_is_in_the_way(part: Any, path: str, kind: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^part{re.escape(path)}: a '{re.escape(kind)}' cannot be sent"
    ) as caught:
        check_sendable({"first": 1, "part": part})
    assert "on_train_begin" in str(caught.value)


def test_sockets_and_files_that_are_written(tmp_path: Path) -> None:
    with socket.socket() as one, (tmp_path / "log").open("w") as other:
        for held in (one, other):
            with pytest.raises(
                ValueError, match=r"^callbacks\[0\]\.held: a '(socket\.socket|_io\.TextIOWrapper)'"
            ):
                check_sendable({"callbacks": [Holding(held)]})


def test_what_refers_to_itself() -> None:
    round_about = Holding(LOCK)
    round_about.me = round_about  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^callback\.held: "):
        check_sendable({"callback": round_about})


def test_what_is_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("pickled")

    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", refuse)
    monkeypatch.setattr(Dataset, "__getstate__", refuse, raising=False)
    check_sendable(
        {"model": nn.Linear(3, 3), "data": ROWS, "vectors": np.zeros(3), "function": using_a_ranking}
    )


def using_a_ranking(model: Any) -> Any:
    return MultipleNegativesRankingLoss(model)


class Subclass(SentenceTransformerTrainer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.own = threading.Lock()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"callbacks": [Holding(LOCK)]}, r"^callbacks\[0\]\.held: a '_thread\.lock'"),
        ({"evaluator": Holding(LOCK)}, r"^evaluator\.held: "),
        ({"data_collator": functools.partial(print, LOCK)}, r"^data_collator\.args\[0\]: "),
        ({"compute_metrics": closing_over(LOCK)}, r"^compute_metrics\.held: "),
        (
            {"preprocess_logits_for_metrics": Holding(LOCK).method},
            r"^preprocess_logits_for_metrics\.__self__\.held: ",
        ),
        ({"kind": Subclass}, r"^trainer\.own: "),
        ({"loss": "locked"}, r"^loss\.similarity_fct\.keywords\['held'\]: "),
    ],
)
def test_each_part_of_a_trainer(
    given: dict[str, Any], message: str, tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.runtime.cluster.connection.connected", None)  # is not come to
    kind = given.pop("kind", SentenceTransformerTrainer) if "kind" in given else SentenceTransformerTrainer
    loss = MultipleNegativesRankingLoss(tiny_model)
    if given.get("loss"):
        loss.similarity_fct = functools.partial(print, held=LOCK)  # type: ignore[assignment]
    args = SentenceTransformerTrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match=message):
        kind(model=tiny_model, args=args, train_dataset=ROWS, **{**given, "loss": loss}).train()
