"""The process group that a run's workers form: its backends, and the network interface that it uses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig
from transformers import TrainingArguments

from ray_st.runtime.cluster.connection import resources_of_worker

GPU_BACKENDS = "cpu:gloo,cuda:nccl"
"""Backends of GPU workers. Objects and numbers of the host go over Gloo, without waiting for the GPU."""

INTERFACES = {"GLOO_SOCKET_IFNAME": "", "NCCL_SOCKET_IFNAME": "="}
"""Environment variables that choose an interface, with the prefix by which a name is taken literally."""

_TorchBackend: type[Any] = TorchConfig().backend_cls


class OwnInterfaceBackend(_TorchBackend):
    """Ray Train's backend, whose workers first choose the interface with their node's address."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Chooses interfaces, then forms the process group."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class GroupConfig(TorchConfig):
    """Configuration of the workers' process group; see :class:`OwnInterfaceBackend`."""

    @property
    def backend_cls(self) -> type[Any]:
        """The class that forms the process group."""
        return OwnInterfaceBackend


def process_group(scaling: ScalingConfig, args: TrainingArguments | None = None) -> TorchConfig:
    """The configuration of the workers' process group.

    Args:
        scaling: Number and kind of workers.
        args: Training arguments, whose ``ddp_backend`` and ``ddp_timeout`` are used; None for the defaults.
    """
    backend = None if args is None else args.ddp_backend
    if backend is None and resources_of_worker(scaling).get("GPU"):
        backend = GPU_BACKENDS
    if args is None:
        return GroupConfig(backend=backend)
    return GroupConfig(backend=backend, timeout_s=args.ddp_timeout)


def choose_interface() -> None:
    """Has Gloo and NCCL use the interface with this node's address, unless the environment names one.

    Gloo would use the address that the host's name resolves to, which is a loopback address on many machines,
    and NCCL the first interface that it finds. The other nodes already reach Ray at this node's address.
    """
    found = interface_of(
        ray.util.get_node_ip_address(),
        {name: [one.address for one in addresses] for name, addresses in psutil.net_if_addrs().items()},
    )
    if found is not None:
        for variable, prefix in INTERFACES.items():
            os.environ.setdefault(variable, prefix + found)


def interface_of(address: str, interfaces: Mapping[str, Iterable[str]]) -> str | None:
    """The name of the interface with an address; None if there is none, as behind a translated address.

    Args:
        address: An IP address.
        interfaces: The addresses of each interface; those of IPv6 may end with a zone (``fe80::1%eth0``).
    """
    for name, addresses in interfaces.items():
        if address in (one.partition("%")[0] for one in addresses):
            return name
    return None
