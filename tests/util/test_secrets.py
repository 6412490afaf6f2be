from __future__ import annotations

from typing import Any

import pytest

from ray_st.util.secrets import with_secrets, without_secrets


@pytest.mark.parametrize(
    "value",
    [
        {"api_key": "x", "steps": 3, "names": ["a"]},
        {"args": {"token": "x", "url": "y"}, "attributes": {"credentials": {"user": "a", "id": 3}}},
        [{"password": "x"}, {"password": "y"}],
        {"token": ""},
    ],
    ids=str,
)
def test_what_is_hidden_comes_back_from_the_living_value(value: Any) -> None:
    hidden = without_secrets(value)
    assert "'x'" not in repr(hidden)
    assert with_secrets(hidden, value) == value


def test_what_nobody_knows_stays_hidden() -> None:
    assert with_secrets({"token": "<TOKEN>", "step": 3}, {}) == {"token": "<TOKEN>", "step": 3}
    assert with_secrets({"name": "<NAME>"}, {"name": "other"}) == {"name": "<NAME>"}
    assert with_secrets(["<TOKEN>"], []) == ["<TOKEN>"]
