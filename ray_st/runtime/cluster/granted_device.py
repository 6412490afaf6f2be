"""The device that Ray grants to a process, and the share of its memory that comes with it."""

from __future__ import annotations

import ray
import torch


def take_granted_device() -> torch.device:
    """Returns the device of this process: the GPU that Ray granted to it, wholly or in part, else the CPU.

    A process with a share of a GPU is limited to the same share of its memory, so that it cannot take what
    the other shares need. To be called before anything is put on the device.
    """
    context = ray.get_runtime_context()
    if not context.get_accelerator_ids().get("GPU"):
        return torch.device("cpu")
    # An actor sees only its own GPU. A worker of Ray Train sees those of all workers on its node, and Ray has
    # made its own the current one.
    device = torch.device("cuda", torch.cuda.current_device())
    limit_memory(device, context.get_assigned_resources().get("GPU", 1.0))
    return device


def limit_memory(device: torch.device, share: float) -> None:
    """Limits this process to a share of a GPU's memory.

    Args:
        device: The GPU.
        share: Share granted, such as 0.25; from 1 on there is no limit.
    """
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)
