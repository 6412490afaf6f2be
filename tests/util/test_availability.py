from __future__ import annotations

import pytest

from ray_st.util import availability, is_training_available


@pytest.mark.parametrize("missing", [None, "accelerate", "datasets"])
def test_both_packages_are_needed(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "find_spec", lambda name: None if name == missing else object())
    assert is_training_available() is (missing is None)


def test_here_they_are() -> None:
    assert is_training_available()
