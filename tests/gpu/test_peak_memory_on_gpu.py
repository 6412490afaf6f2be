"""The peak of a GPU's memory that a trial took."""

from __future__ import annotations

import pytest
import torch

from ray_st.util.peak_memory import PeakMemory

from .conftest import GPU

MIB = 2**20


@pytest.mark.parametrize("device", [GPU], indirect=True)
def test_the_peak_is_that_of_the_stretch(device: torch.device) -> None:
    earlier = torch.zeros(200 * MIB // 4, device=device)  # of another trial in this process
    del earlier
    peak = PeakMemory()
    before = peak.bytes_on(device)
    mine = torch.zeros(50 * MIB // 4, device=device)
    del mine
    assert peak.bytes_on(device) - before == pytest.approx(50 * MIB, abs=2 * MIB)
