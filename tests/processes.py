"""Processes of several ranks, forked from one that has imported the large libraries once for all tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

LARGE = ["torch.distributed", "accelerate", "transformers.trainer", "datasets", "ray_st.trainer"]


def run_ranks(task: Callable[..., None], *given: Any, count: int = 2) -> None:
    """Runs ``task(rank, *given)`` in a process for each rank and waits for them; raises what one of them raises."""
    multiprocessing.set_forkserver_preload(LARGE)
    torch.multiprocessing.start_processes(task, given, nprocs=count, start_method="forkserver")  # type: ignore[no-untyped-call]
