"""What a run leaves in a process that will carry out another."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

import torch
from accelerate.state import AcceleratorState, GradientState


def forget_run() -> None:
    """Clears what a run leaves in its process: accelerate's state, reference cycles, freed memory."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # another run may share the GPU
    # glibc keeps freed memory in heaps of threads that have ended: a process grew by GBs over a dozen runs.
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)
