from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation.mse import mean_squared_error


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_error_is_the_mean_of_squares(kind) -> None:
    a, b = np.random.default_rng(0).random((2, 7, 5)).astype(kind)
    slow = sum((float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / 35
    assert mean_squared_error(a, b) == pytest.approx(slow, rel=1e-6)


def test_nan_stays_nan() -> None:
    assert np.isnan(mean_squared_error(np.array([[np.nan, 1.0]]), np.ones((1, 2))))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same shape; found \(3, 4\) and \(3, 1\).*truncate_dim"):
        mean_squared_error(np.ones((3, 4)), np.ones((3, 1)))
