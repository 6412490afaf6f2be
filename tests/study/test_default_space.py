"""The space that is chosen by model, loss, data and arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_st.study.default_space import Range, SpaceFacts, chosen_space
from ray_st.study.space import as_space, describe, probe

FACTS = SpaceFacts(
    weights=22_000_000,
    trained=22_000_000,
    has_layers=True,
    rows=5_000,
    compares_rows=False,
    bounded_memory=False,
    ranks=1,
    lr_scheduler_type="linear",
    fixed={},
)
ARGUMENTS = ["learning_rate", "warmup_ratio", "num_train_epochs", "per_device_train_batch_size"]


def ranges(**changed: object) -> dict[str, Range]:
    """The ranges of other facts, by name."""
    return {one.name: one for one in chosen_space(replace(FACTS, **changed)).ranges}  # type: ignore[arg-type]


def test_a_small_model_and_few_rows() -> None:
    found = chosen_space(FACTS)
    assert [one.name for one in found.ranges] == ARGUMENTS
    space = describe(probe(as_space(found)))
    assert set(space) == set(ARGUMENTS)
    assert str(found).splitlines() == [
        "learning_rate: 1e-05 to 0.0005 (logarithmic): for a model of up to 50 million weights",
        "warmup_ratio: 0 to 0.2: the larger the learning rate, the more it helps",
        "num_train_epochs: 1 to 5: for 5,000 rows",
        "per_device_train_batch_size: 8, 16, 32, 64: the loss needs no other rows of the batch: smaller ones make more "
        "steps",
        'seed: not searched: the best of several seeds is a lucky one; "confirm" trains the winner with others',
    ]


@pytest.mark.parametrize(
    ("changed", "low", "high", "reason"),
    [
        ({"weights": 110_000_000, "trained": 110_000_000}, 5e-6, 2e-4, "base size"),
        ({"weights": 560_000_000, "trained": 560_000_000}, 2e-6, 1e-4, "more than 200 million"),
        ({"weights": 110_000_000, "trained": 1_100_000}, 3e-5, 2e-3, "1.0% of the weights"),
        ({"has_layers": False}, 3e-3, 3e-1, "token vectors"),
    ],
)
def test_the_learning_rate_follows_what_is_trained(
    changed: dict[str, object], low: float, high: float, reason: str
) -> None:
    found = ranges(**changed)["learning_rate"]
    assert (found.low, found.high, found.log) == (low, high, True)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("rows", "most"),
    [(10_000, 5), (10_001, 3), (1_000_000, 2), (1_000_001, None), (None, None)],
)
def test_more_rows_need_fewer_epochs(rows: int | None, most: int | None) -> None:
    found = ranges(rows=rows).get("num_train_epochs")
    assert (found.high if found else None) == most


@pytest.mark.parametrize(
    ("changed", "sizes"),
    [
        ({"compares_rows": True}, [16, 32, 64, 128]),
        ({"compares_rows": True, "bounded_memory": True}, [32, 64, 128, 256]),  # 512 would leave 9 steps
        ({"compares_rows": True, "ranks": 8}, [16, 32]),
        ({"rows": None}, [8, 16, 32, 64]),
        ({"rows": 100}, []),
    ],
)
def test_batches_follow_the_loss_and_leave_ten_steps(changed: dict[str, object], sizes: list[int]) -> None:
    found = ranges(**{"rows": 5_000, **changed}).get("per_device_train_batch_size")
    assert (list(found.choices) if found else []) == sizes


def test_what_other_arguments_decide_is_left_with_a_reason() -> None:
    found = chosen_space(
        replace(FACTS, lr_scheduler_type="constant", fixed={"num_train_epochs": "max_steps"}, rows=100)
    )
    assert [one.name for one in found.ranges] == ["learning_rate"]
    assert found.left["num_train_epochs"] == "max_steps decides"
    assert found.left["warmup_ratio"] == 'lr_scheduler_type="constant" has no warmup'
    assert "100 rows" in found.left["per_device_train_batch_size"]


def test_it_can_be_part_of_a_space_of_ones_own() -> None:
    default = chosen_space(FACTS)
    space = as_space(lambda trial: {**default(trial), "scale": trial.suggest_float("scale", 5, 40)})
    assert set(describe(probe(space))) == {*ARGUMENTS, "scale"}
