from __future__ import annotations

from typing import Any

import pytest

from ray_st.study.plain_space import plain_space
from ray_st.study.space import describe, probe
from ray_st.study.trial_arguments import SpaceError

SPEC = {
    "args.learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
    "args.num_train_epochs": {"low": 1, "high": 3},
    "args.weight_decay": {"low": 0.0, "high": 0.5, "step": 0.25},
    "loss.name": ["CoSENTLoss", "AnglELoss"],
    "loss.scale": {"choices": [10.0, 20.0], "when": {"loss.name": "CoSENTLoss"}},
    "args.max_steps": 7,
}


def test_each_kind_of_dimension() -> None:
    points = probe(plain_space(SPEC, "run.yaml: search.space"))
    found = describe(points)
    assert found["args.learning_rate"]["attributes"] == {"low": 1e-6, "high": 1e-3, "log": True, "step": None}
    assert found["args.num_train_epochs"]["name"] == "IntDistribution"
    assert found["args.weight_decay"]["attributes"]["step"] == 0.25
    for point in points:
        assert point.values["args.max_steps"] == 7
        assert ("loss.scale" in point.values) == (point.values["loss.name"] == "CoSENTLoss")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"lo": 1, "high": 2}, "did you mean 'low'"),
        ({"low": 2, "high": 1}, "low <= high"),
        ({"low": 0, "high": 1, "log": True}, "log needs low > 0"),
        ({"choices": []}, "expected choices"),
        ({"choices": [1], "when": {"other": 1}}, "not a parameter before it"),
    ],
)
def test_bad_dimensions(value: Any, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        plain_space({"a": value}, "run.yaml: search.space")
