"""Peaks of memory, measured anew for each stretch of a process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_st.util import peak_memory
from ray_st.util.peak_memory import PeakMemory

CPU, MIB = torch.device("cpu"), 2**20


def test_the_peak_is_that_of_the_stretch() -> None:
    if not peak_memory.CLEAR.exists():
        pytest.skip("needs Linux")
    before = PeakMemory().bytes_on(CPU)
    first = PeakMemory()
    block = torch.ones(40 * MIB // 4)
    del block
    assert 35 * MIB < first.bytes_on(CPU) - before < 80 * MIB
    assert PeakMemory().bytes_on(CPU) < before + 20 * MIB


def test_where_it_cannot_be_reset_it_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    with pytest.raises(OSError, match="clear_refs"):
        PeakMemory().bytes_on(CPU)
