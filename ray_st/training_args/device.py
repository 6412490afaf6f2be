"""Arguments on the driver, which uses no device, and on a worker, which has a device and a process group."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from ray_st.training_args.sharding_options import check_deepspeed, check_sharding, take_hybrid
from ray_st.util.secrets import without_secrets

_PROCESS_STATE = (
    "_on_worker",
    "_n_gpu",
    "_setup_devices",
    "distributed_state",
    "deepspeed_plugin",
    "hf_deepspeed_config",
)
_DEVICE_DEFAULTS = {
    "use_cpu": True,
    "tf32": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "dataloader_pin_memory": True,
    "ddp_backend": None,
    "deepspeed": None,  # it looks for the other processes
}
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # transformers' callback reads it in place of args.logging_dir


class DeviceArguments(TrainingArguments):
    """transformers' arguments, except that :meth:`settle` determines the device, not the constructor.

    On the driver ``device`` is the CPU, ``n_gpu`` is 0, ``world_size`` 1 and ``process_index`` 0, whatever
    its machine has: the workers' machines may differ. Precision and compilation that need a GPU are checked
    on the worker. As text for records and logs, secrets are hidden at every level instead of only at the top.
    """

    _on_worker = False
    _any_settled: ClassVar[bool] = False  # in this process
    logging_dir: str | None

    def __post_init__(self) -> None:
        """Completes and validates the arguments."""
        given = vars(self)
        for name in ("checkpointing", "checkpointing_kwargs"):
            # The documented names, without transformers' warning; not all releases have the newer ones.
            if given.get(f"activation_{name}", "missing") is None:
                given[f"activation_{name}"] = given[f"gradient_{name}"]
        if self.logging_dir is not None and "://" not in str(self.logging_dir):
            self.logging_dir = str(Path(self.logging_dir).expanduser().absolute())
        self.torch_compile |= self.torch_compile_mode is not None or self.torch_compile_backend is not None
        self.check()

    def check(self) -> None:
        """Validates the current arguments; also called after a ``set_*`` helper or an assignment.

        Raises:
            ValueError: If they contradict each other.
        """
        if self._on_worker:
            self._complete()
            return
        with self._without_device():
            self._complete()
        check_sharding(self)
        check_deepspeed(self)
        self.mixed_precision = "no"  # what an Accelerator on the driver gets

    def _complete(self) -> None:
        take_hybrid(self)
        super().__post_init__()
        self.fsdp_plugin_args = None  # ray_st's loop shards weights, not accelerate

    @contextmanager
    def _without_device(self) -> Iterator[None]:
        given = {name: getattr(self, name) for name in _DEVICE_DEFAULTS}
        self.__dict__.update(_DEVICE_DEFAULTS)
        try:
            yield
        finally:
            self.__dict__.update(given)

    @cached_property
    def _setup_devices(self) -> torch.device:
        if self._on_worker:
            return super()._setup_devices
        if DeviceArguments._any_settled:  # transformers would reset state that training here relies on
            self._n_gpu, self.distributed_state = 0, None
            vars(self.accelerator_config).pop("use_configured_state", None)  # as transformers does
            return torch.device("cpu")
        with self._without_device():
            return super()._setup_devices

    def settle(self, output_dir: str) -> None:
        """Adapts the arguments to the worker that received them.

        Args:
            output_dir: The worker's folder.

        Raises:
            ValueError: If the worker's device does not support what they ask for.
        """
        if self.push_to_hub and self.hub_model_id is None:  # the driver's folder names the repository
            self.hub_model_id = Path(str(self.output_dir)).absolute().name
        self.output_dir = output_dir
        # accelerate joins a CPU process group only if use_cpu declares that the workers have no accelerator.
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.fp16 and self.use_cpu:
            raise ValueError(
                "fp16=True needs a GPU, and this worker has none. Use bf16=True, or leave fp16 out."
            )
        self.ddp_backend = None  # the process group exists already
        if self.logging_dir is not None:
            os.environ[_TENSORBOARD] = self.logging_dir
        self._on_worker = DeviceArguments._any_settled = True
        self.__dict__.pop("_setup_devices", None)
        self._complete()

    def __getstate__(self) -> dict[str, Any]:
        """Excludes the state of this process: the receiving process determines its own device."""
        return {name: value for name, value in self.__dict__.items() if name not in _PROCESS_STATE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the values; :meth:`settle` determines the device."""
        self.__dict__.update(state)
        self.distributed_state = None

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain values: enumerations by value, callables by name, secrets hidden.

        The constructor accepts the result, unless it contains callables.
        """
        return {name: _plain(value) for name, value in without_secrets(super().to_dict()).items()}

    def __str__(self) -> str:
        lines = "".join(f"{name}={value!r},\n" for name, value in sorted(self.to_dict().items()))
        return f"{type(self).__name__}(\n{lines})"

    __repr__ = __str__

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps dataclass subclasses from generating a ``__repr__`` that shows secrets."""
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else value
