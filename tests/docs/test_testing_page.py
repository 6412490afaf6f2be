"""The kits' page: what it shows is collected here and runs; a part that breaks a law fails in the kit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ray_st.testing
from ray_st.losses import Columns, Loss
from ray_st.testing import LossCase, LossConformance, SamplerConformance
from ray_st.testing.loss_conformance import ROWS
from ray_st.testing.tiny_encoder import TinyEncoder, token_columns

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
    exec(compile(block, str(PAGE), "exec"), globals())  # its Test… classes are tests of this module


def test_the_page_has_an_example_of_each_kit() -> None:
    assert {"TestSquaredDistanceLoss", "TestHingeLoss", "TestLongestFirst", "TestMeanNorm"} <= set(globals())


def test_names() -> None:
    assert ray_st.testing.__all__ == [
        "EvaluatorCase",
        "EvaluatorConformance",
        "FakeModel",
        "GivenLogits",
        "LossCase",
        "LossConformance",
        "SamplerCase",
        "SamplerConformance",
        "ScoreCase",
        "ScoreLossConformance",
        "TinyEncoder",
        "TinyReranker",
    ]
    for name in ray_st.testing.__all__:
        assert getattr(ray_st.testing, name).__name__ == name


def test_without_pytest_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['pytest'] = None; import ray_st.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: ray_st.testing is made of pytest tests" in done.stderr
    assert "pip install pytest" in done.stderr


class SumOfDistances(Loss):
    """A sum, where a loss must be a mean."""

    text_columns = (2, 2)

    def compute(self, columns: Columns) -> Tensor:
        first, second = columns.mine
        return (first - second).pow(2).sum()


def test_a_loss_that_breaks_the_law_fails() -> None:
    case, encoder = LossCase(SumOfDistances), TinyEncoder()
    kit, features = LossConformance(), token_columns(2, ROWS)
    kit.test_order_of_rows_does_not_matter(case, case.build(encoder), features)
    with pytest.raises(AssertionError):
        kit.test_slices_with_a_shared_pool_are_the_whole(case, case.build(encoder), features, [6, 6])


def test_a_loss_that_trains_nothing_fails() -> None:
    class Constant(SumOfDistances):
        def compute(self, columns: Columns) -> Tensor:
            return super().compute(columns) * 0 + torch.ones(())

    case, encoder = LossCase(Constant), TinyEncoder()
    with pytest.raises(AssertionError):
        LossConformance().test_the_gradient_reaches_the_model(
            case, case.build(encoder), encoder, token_columns(2, ROWS)
        )


def test_a_sampler_with_a_memory_fails() -> None:
    class Remembering:
        drawn = 0

        def set_epoch(self, epoch: int) -> None:
            """Of no effect."""

        def __iter__(self) -> Any:
            self.drawn += 1
            return iter([[self.drawn]])

    sampler = Remembering()
    with pytest.raises(AssertionError):
        SamplerConformance().test_order_is_a_function_of_seed_and_epoch(None, lambda **_: sampler)
