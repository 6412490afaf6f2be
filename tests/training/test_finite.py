"""A step whose losses or gradient are not numbers is refused, and its rows are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_st.training.loop.finite_check import Batch, LossError, StepCheck
from ray_st.world import World

ONE = Batch(np.array([7, 3, 5, 9]))
TWO = Batch(np.array([2, 4]), "pairs")
NUMBER, NAN = torch.tensor(1.5), torch.tensor(torch.nan)


def checked(*losses: tuple[torch.Tensor, Batch], world: World | None = None) -> StepCheck:
    check = StepCheck(world or World())
    for loss, batch in losses:
        check.add(loss, batch)
    return check


@pytest.mark.parametrize("norm", [torch.tensor(2.0), torch.tensor(0.0, dtype=torch.bfloat16), 3.0])
def test_numbers_pass_and_the_next_step_begins_anew(norm: torch.Tensor | float) -> None:
    check = checked((NUMBER, ONE), (NUMBER.double(), TWO))
    check.check(norm, 1)
    check.add(NUMBER, ONE)
    check.check(norm, 2)


def test_a_loss_names_the_rows_of_its_rank() -> None:
    check = checked((NUMBER, ONE), (NAN, TWO), world=World(1, 2))
    with pytest.raises(
        LossError, match=r"^The loss is nan at step 3 on rank 1 of 2, rows \[4\] of dataset 'pairs' "
    ):
        check.check(1.0, 3)


def test_a_gradient_names_the_rows_of_the_whole_step() -> None:
    expected = (
        r"gradient of step 3 .* norm is inf.* rows \[7, 3, 5, 9\] \(.*\); rows \[2, 4\] of dataset 'pairs' "
    )
    with pytest.raises(LossError, match=expected):
        checked((NUMBER, ONE), (NUMBER, TWO)).check(torch.tensor(torch.inf), 3)
    with pytest.raises(LossError, match=r"rows \[0, 1, .*, 99\] and 1,100 more \("):
        checked((NUMBER, Batch(np.arange(1200)))).check(torch.nan, 3)
    with pytest.raises(LossError, match=r"in a batch of get_train_dataloader\(\)"):
        checked((NUMBER, Batch(None))).check(torch.nan, 3)
    with pytest.raises(LossError, match=r"in batches of your own training_step\(\)"):
        checked().check(torch.nan, 3)


def test_scaled_losses_may_have_gradients_that_overflow_but_not_losses() -> None:
    checked((NUMBER, ONE)).check(torch.inf, 3, skips=lambda: True)
    with pytest.raises(LossError, match="The loss is nan"):
        checked((NAN, ONE)).check(torch.nan, 3, skips=lambda: True)
