"""Peaks of memory, measured anew for each stretch of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ray_st.util import peak_memory
from ray_st.util.peak_memory import PeakMemory

CPU, MIB = torch.device("cpu"), 2**20

STRETCHES = """
import torch
from ray_st.util.peak_memory import PeakMemory

CPU = torch.device("cpu")
earlier = torch.ones(200 * 2**20 // 4)
del earlier
before = PeakMemory().bytes_on(CPU)
stretch = PeakMemory()
block = torch.ones(40 * 2**20 // 4)
del block
print(before, stretch.bytes_on(CPU), PeakMemory().bytes_on(CPU))
"""


def test_the_peak_is_that_of_the_stretch() -> None:
    if not peak_memory.CLEAR.exists():
        pytest.skip("needs Linux")
    # A process of its own: one that has run other tests has room for the block in memory that it holds already.
    done = subprocess.run([sys.executable, "-c", STRETCHES], capture_output=True, text=True, check=True)
    before, peak, after = map(int, done.stdout.split())
    assert 35 * MIB < peak - before < 80 * MIB
    assert after < before + 20 * MIB


def test_where_it_cannot_be_reset_it_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    with pytest.raises(OSError, match="clear_refs"):
        PeakMemory().bytes_on(CPU)
